"""How the tests of study files read a list of faults."""


def assert_fault(error, line, message):
    """The error lists a fault of this line that holds the message."""
    said = str(error).splitlines()[1:]
    assert any(each.startswith(f"  line {line}: ") and message in each for each in said), said
