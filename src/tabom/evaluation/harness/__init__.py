"""The model as lm-eval's harness sees it. Needs `pip install 'tabom[eval]'`."""
