"""The `tabom` command."""
