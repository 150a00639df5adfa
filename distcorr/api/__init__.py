"""The Python interface, beside the command line; ``distcorr`` itself offers its seven names."""
