"""How every command ends: a sentence for what the user can fix, a traceback only for what we got wrong."""

import sys
from collections.abc import Callable

from justrl.errors import UserError


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit with its status; a UserError becomes one line on standard error and status 2."""
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(status or 0)
