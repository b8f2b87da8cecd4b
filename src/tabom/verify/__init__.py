"""Answer checkers and the filter that keeps what they accept."""
