"""`python -m justrl`: the command line, for when the package is not installed."""

from justrl.commands.main import console

if __name__ == "__main__":
    console()
