"""One hierarchy of errors; each class is a gRPC status code and travels between processes as it is."""

import copy
import pickle
import re

import grpc
import pytest

from triptych.core import errors
from triptych.core.errors import InvalidArgument, PromptTooLong, TriptychError, error_class

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TriptychError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_survives_pickling_with_its_class_and_fields(kind: type[TriptychError]) -> None:
    error = kind("too many", field="prompt", request_id="r-1", retry_after=0.5)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(again) is kind
        assert vars(again) == vars(error)
        assert str(again) == "too many"
        assert again.args == ("too many",)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_class_is_the_status_code_of_its_name(kind: type[TriptychError]) -> None:
    names = {status.value[0]: status.name for status in grpc.StatusCode}
    named = {TriptychError: "UNKNOWN", PromptTooLong: "INVALID_ARGUMENT"}
    assert names[kind.code] == named.get(kind, re.sub(r"(?<=.)([A-Z])", r"_\1", kind.__name__).upper())


def test_every_code_finds_its_class() -> None:
    for kind in CLASSES:
        if kind is not PromptTooLong:
            assert error_class(kind.code) is kind
    assert error_class(PromptTooLong.code) is InvalidArgument
    assert error_class(99) is TriptychError


def test_the_tree_in_the_documentation_holds_every_class() -> None:
    drawn = re.findall(r"^ {4}(?:│   )?(?:[├└]── )?([A-Z]\w+)", errors.__doc__ or "", flags=re.MULTILINE)
    assert sorted(drawn) == sorted(kind.__name__ for kind in CLASSES)
