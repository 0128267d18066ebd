"""What ends an operator's tool. Each is one sentence that says what to do."""


class ToolError(Exception):
    """The tool can't do what it was asked for."""


class ToolRefused(ToolError):
    """It could, and must not: what is there is not what it may be used on."""


class BadExport(ToolError):
    """The file isn't an export, or is damaged, cut short, or of a newer release."""
