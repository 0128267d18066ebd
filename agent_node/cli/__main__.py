"""`muster`: the console script."""

import io
import os
import sys

MISSING_EXTRA = "muster: the command line needs typer and rich: pip install 'muster-agents[cli]'."


def main() -> None:
    """Runs the command line and exits with one of `agent_node.cli.exits.ExitCode`."""
    # gRPC's own log lines would mix with ours; what matters of them reaches us as errors.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError:
        print(MISSING_EXTRA, file=sys.stderr)
        sys.exit(2)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal or locale that can't show a character gets an escape, not a crash
        sys.stdout.reconfigure(errors="backslashreplace")
    from agent_node.cli.app import build_app

    build_app()(prog_name="muster")


if __name__ == "__main__":
    main()
