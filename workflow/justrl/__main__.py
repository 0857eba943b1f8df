"""`python -m justrl`: the command line, for when the package is not installed."""

from justrl.cli.main import console

if __name__ == "__main__":
    console()
