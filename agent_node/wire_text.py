"""Text as the wire can hold it.

Python's strings may hold lone surrogates (file names that aren't UTF-8, half an emoji from a model's JSON); protobuf's can't, and one
of them in an error's message would keep the whole message, and all that is sent with it, from leaving.
"""


def wire_text(text: str) -> str:
    """The same text, with each lone surrogate written out as an escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text
