"""Lists of numbers as users write them: 1,8,32."""

from triptych.core.errors import InvalidArgument


def integers(text: str, option: str) -> tuple[int, ...]:
    """Whole numbers.

    Raises:
        InvalidArgument: a part of the text is not one.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidArgument(
            f"--{option} must be whole numbers such as 1,8,32, got {text!r:.60}", field=option
        ) from None


def positive(text: str, option: str) -> tuple[float, ...]:
    """Numbers above zero.

    Raises:
        InvalidArgument: a part of the text is not one.
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < float("inf") for value in values):
        raise InvalidArgument(
            f"--{option} must be numbers above zero such as 0.5,1,2, got {text!r:.60}", field=option
        )
    return values
