from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from triptych.config.layout import Layout
from triptych.config.load import load_spec, make_spec
from triptych.config.spec import ClusterSpec
from triptych.core.errors import InvalidArgument, NotFound


def mistakes(tmp_path: Path, text: str, overrides: dict[str, object] | None = None) -> tuple[str, list[str]]:
    """The field, and the lines of the error, without the file's name."""
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        load_spec(file, overrides or {})
    lines = caught.value.message.splitlines()
    return caught.value.field, [line.removeprefix(f"{file}:") for line in lines]


def test_a_file_is_read_into_frozen_settings(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("model: builtin:smollm2\nlayout: 2E1P3D\nkv_cache: {memory: 512MiB}\nrouter: {grpc: '[::1]:0'}\n")
    spec = load_spec(file)
    assert spec.layout == Layout(2, 1, 3)
    assert spec.kv_cache.memory == 512 * 2**20
    assert spec.router.grpc == "[::1]:0"
    assert (spec.name, spec.dtype, spec.scheduler.max_batch_tokens) == ("builtin:smollm2", "auto", 512)
    with pytest.raises(ValidationError):
        spec.model = "other"


def test_settings_survive_being_written_out(tmp_path: Path) -> None:
    spec = make_spec({"model": "m", "layout": "1P1D", "kv_cache.memory": "3MiB", "served_name": "n"})
    assert ClusterSpec.model_validate(spec.model_dump()) == spec
    assert make_spec({"model": "m"}).model_dump()["layout"] == "auto"
    assert spec.name == "n"


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("layout: auto\nrouter: {grpc: nonsense, max_running_requests: 3}\n")
    spec = load_spec(file, {"model": "m", "router.grpc": "0.0.0.0:1", "ray.address": "auto"})
    assert (spec.model, spec.router.grpc, spec.router.max_running_requests) == ("m", "0.0.0.0:1", 3)
    assert spec.ray.address == "auto"


def test_every_mistake_is_reported_with_its_line_and_column(tmp_path: Path) -> None:
    text = """\
modle: builtin:smollm2
layout: 1E1
dtype: float16
kv_cache:
  memory: 12 parsecs
  blocksize: 16
  block_size: 16
  block_size: 8
router: {grpc: 50051, max_running_requests: true}
scheduler: 3
stages:
  decode:
    replicas: 0
"""
    field, lines = mistakes(tmp_path, text)
    assert field == "model"
    assert lines[0] == "11 mistakes in the settings"
    assert lines[1] == " the key 'model' is missing"
    assert lines[2] == "1:1: unknown key 'modle'; did you mean 'model'?"
    assert lines[3].startswith("2:1: layout must be auto or counts of encode, prefill and decode workers")
    assert lines[4] == "3:1: dtype must be 'auto', 'float32' or 'bfloat16', got \"float16\""
    assert lines[5].startswith("5:3: kv_cache.memory must be a number of bytes or a size such as 512MiB")
    assert lines[6] == "6:3: unknown key 'kv_cache.blocksize'; did you mean 'block_size'?"
    assert lines[7] == "8:3: the key 'block_size' is given twice, first in line 7"
    assert lines[8] == "9:10: router.grpc must be a valid string, got 50051"
    assert lines[9] == "9:23: router.max_running_requests must be a valid integer, got true"
    assert lines[10] == "10:1: scheduler must be a section of keys and values, got 3"
    assert lines[11] == '12:3: stages.decode must have at least one worker, got {"replicas": 0}'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", " the key 'model' is missing"),
        ("- 1", " must be a mapping of keys to values, such as `model: NAME`"),
        ("1: 2\nmodel: x", "1:1: a key must be text"),
        ("[1]: 2\nmodel: x", "1:1: a key must be text"),
        ("model: x\n  layout: 3", "2:9: mapping values are not allowed here"),
        ("model: 'abc", "1:12: while scanning a quoted scalar, found unexpected end of stream"),
        ("model: x\nmodel: y", "2:1: the key 'model' is given twice, first in line 1"),
        (
            "model: x\nzzz: 1",
            "2:1: unknown key 'zzz'; there are model, served_name, dtype, quantization, generation_config,",
        ),
        ("model: x\nrouter:\n  grpc: localhost:99999", "3:3: router.grpc must be HOST:PORT"),
        ("model: x\nrouter: null", "2:1: router must be a section of keys and values, got null"),
        ("model: x\nlayout: 1D\nstages: {decode: {replicas: 2}}", "3:1: stages cannot be given together with layout"),
        ("model: x\nstages: {encode: {}}", "2:10: the key 'stages.encode.replicas' is missing"),
        (
            "model: x\nstages: {encode: {replicas: 1, tensor_parallel: 2}}",
            "2:10: stages.encode must not divide its workers over ranks: more `replicas` see more images",
        ),
        ("model: x\ntensor_parallel: 65", "2:1: tensor_parallel must be less than or equal to 64, got 65"),
        ("model: x\nexpert_parallel: 0", "2:1: expert_parallel must be greater than or equal to 1, got 0"),
        (
            "model: x\nstages: {decode: {replicas: 1, attention_parallel: rows}}",
            "2:32: stages.decode.attention_parallel must be ",
        ),
        (
            "model: x\nexpert_balance: {redundant_experts: 2}",
            "2:1: expert_balance cannot have redundant_experts where expert_parallel is 1: one rank has every expert",
        ),
        (
            "model: x\nexpert_balance: {threshold: 1.1}",
            "2:18: expert_balance.threshold must be less than or equal to 1, got 1.1",
        ),
        ("model: x\nexperts: {budget: 0%}", "2:11: experts.budget must be above 0% and at most 100%, got 0%"),
        (
            "model: x\nexperts: {budget: 12 parsecs}",
            "2:11: experts.budget must be auto, a share such as 50%, or a size such as 1.5GiB, got '12 parsecs'",
        ),
        ("model: x\nexperts: {budjet: 1GiB}", "2:11: unknown key 'experts.budjet'; did you mean 'budget'?"),
        (
            "model: x\nexperts: {policy: fifo}",
            "2:11: experts.policy must be 'lfu-decay', 'lru', 'static-hot' or 'ring'",
        ),
        ("model: x\nexperts: {readers: 0}", "2:11: experts.readers must be greater than or equal to 1, got 0"),
        (
            "model: x\nexperts: {prefetch: route}",
            "2:1: experts.route must name a file that `triptych experts train` has made, for prefetch: route",
        ),
        (
            "model: x\nexperts: {regroup: true}",
            "2:11: experts.regroup needs policy: lru; the others keep who was needed most",
        ),
        (
            "model: x\ntensor_parallel: 2\nexperts: {policy: lru, regroup: true}",
            "3:1: experts cannot have regroup where workers have several ranks",
        ),
        (
            "model: x\nstages: {encode: {replicas: 1, experts: {budget: auto}}}",
            "2:10: stages.encode must not have experts: its workers never open the language model",
        ),
        (
            "model: x\nstages: {decode: {replicas: 1, experts: {budget: -1}}}",
            "2:42: stages.decode.experts.budget must be positive, got -1",
        ),
        ("model: x\ncontext_length: 1", "2:1: context_length must be greater than or equal to 2, got 1"),
        ("model: x\nkv_cache: {memory: 1KiB}", '2:12: kv_cache.memory must be 1MiB to 1TiB, got "1KiB"'),
        (
            "model: x\ntransfer: {lease_seconds: 4.9}",
            "2:12: transfer.lease_seconds must be greater than or equal to 5",
        ),
        (
            "model: x\nscheduler: {max_batch_tokens: 64, max_running: 64}",
            "2:35: scheduler.max_running must be below max_batch_tokens, which is 64: each running request takes one",
        ),
        ("model: x\ntransfer: {lease_seconds: .nan}", "2:12: transfer.lease_seconds must be "),
        ("model: ''", '1:1: model must have at least 1 character, got ""'),
        ("model: x\nserved_name: !!python/object:os.system x", "2:14: could not determine a constructor"),
        ("model: x\nserved_name: 2026-13-45", "2:14: '2026-13-45' cannot be read: month must be in 1..12"),
        ("model: \x00", " unacceptable character #x0000"),
        (
            "--- \nmodel: a\n---\nmodel: b",
            "3:1: expected a single document in the stream, but found another document",
        ),
    ],
)
def test_one_mistake_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    _, lines = mistakes(tmp_path, text)
    assert [shown.startswith(line) for shown in lines] == [True], lines


def test_documents_made_to_exhaust_a_parser_are_refused(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nmodel: [*b, *b]"
    assert "1:4: an anchor may be used once only" in mistakes(tmp_path, bomb)[1]
    assert mistakes(tmp_path, "model: " + "[" * 5000)[1] == [" is nested too deeply"]
    assert "at most 1048576 bytes" in mistakes(tmp_path, "#" * (2**20 + 1))[1][0]


def test_a_mistake_in_a_flag_is_not_blamed_on_a_line(tmp_path: Path) -> None:
    field, lines = mistakes(tmp_path, "model: x\nlayout: 1D\n", {"layout": "1P"})
    assert field == "layout"
    assert lines[0].startswith(" layout must be auto or counts")
    assert lines[0].endswith("(set by a flag)")
    with pytest.raises(InvalidArgument, match=r"^router.grpc must be HOST:PORT.*\(set by a flag\)$"):
        make_spec({"model": "x", "router.grpc": "here"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is not a file"):
        load_spec(tmp_path / "absent.yaml")
    with pytest.raises(NotFound, match="is not a file"):
        load_spec(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("model: café".encode("latin-1"))
    with pytest.raises(InvalidArgument, match=r"not UTF-8 text \(byte 10\)"):
        load_spec(latin)


@pytest.mark.parametrize("value", [True, 1.5, "64", -1, 0, 5000, None, [], {}])
def test_numbers_are_taken_as_numbers_only(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=r"^scheduler\.max_running must be "):
        make_spec({"model": "m", "scheduler.max_running": value})


def test_adapters_are_named_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = make_spec({"model": "m", "adapters": {"one": "here/one", "other": "/there"}})
    assert spec.adapter_folders == {"one": tmp_path / "here/one", "other": Path("/there")}
    text = 'model: m\nadapters:\n  one: 5\n  "": /there\n'
    assert mistakes(tmp_path, text)[1] == ["3:3: adapters.one must be a valid string, got 5"]
    named = "2:1: adapters must have names of 1 to 128 characters, got ''"
    assert mistakes(tmp_path, text.replace("5", "/here"))[1] == [named]
