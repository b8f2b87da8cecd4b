"""One self-contained HTML file, its drawings, and the same numbers for the terminal. No torch."""
