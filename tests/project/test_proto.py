"""The wire contract: generated code is up to date, the codec is exact, field numbers never move."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import vecdb_proto
from tests.waiting import HANG_S
from vecdb import checks, filter_limits, index_fields, metadata_checks, types, vector_arrays
from vecdb.errors import InvalidArgumentError
from vecdb_proto import codec
from vecdb_proto import vecdb_pb2 as wire

PACKAGE = Path(vecdb_proto.__file__).parent
ROOT = PACKAGE.parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the compiler has no wheel for this Python")
def test_generated_code_is_what_the_contract_generates(tmp_path: Path) -> None:
    # The flags of a make that runs these tests are not for this one.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    paths = [f"PYTHON={sys.executable}", f"VENV={tmp_path / 'venv'}", f"TARGET={tmp_path}"]
    subprocess.run(["make", "proto", *paths], check=True, env=environment, cwd=ROOT, timeout=HANG_S)
    names = sorted(path.name for path in (tmp_path / "vecdb_proto").iterdir())
    assert names == ["vecdb_pb2.py", "vecdb_pb2.pyi", "vecdb_pb2_grpc.py"]
    for name in names:
        generated = (tmp_path / "vecdb_proto" / name).read_text()
        assert generated == (PACKAGE / name).read_text(), f"{name}: run make proto"


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=20),
        elements=st.floats(width=32),
    )
)
def test_a_matrix_comes_back_bit_for_bit(vectors: np.ndarray) -> None:
    message = wire.Matrix.FromString(codec.encode_matrix(vectors).SerializeToString())
    assert (message.rows, message.dim) == vectors.shape
    assert message.data == vectors.astype("<f4").tobytes()
    for writable in (False, True):
        back = codec.decode_matrix(message, writable=writable)
        assert back.dtype == np.float32
        assert back.shape == vectors.shape
        assert back.tobytes() == vectors.tobytes()
        assert back.flags.writeable is writable


def test_the_layout_never_changes() -> None:
    message = codec.encode_matrix(np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1e-3]], np.float32))
    assert message.SerializeToString().hex() == (
        "080210031801"  # rows 2, dim 3, dtype 1
        "2218"  # data: 24 bytes
        "0000803f000000c00000003f00000000000040406f12833a"
    )


def test_views_of_any_order_are_encoded_by_row() -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    for view in (np.asfortranarray(vectors), vectors[::2], vectors.T, vectors.astype(np.float64)):
        back = codec.decode_matrix(codec.encode_matrix(view))
        assert np.array_equal(back, view)


def test_a_big_endian_host_swaps(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.array([[1.0, 2.0]], np.float32)
    monkeypatch.setattr(sys, "byteorder", "big")
    swapping = importlib.util.module_from_spec(codec.__spec__)
    codec.__spec__.loader.exec_module(swapping)
    message = swapping.encode_matrix(vectors)
    assert message.data == vectors.astype(">f4").tobytes()
    assert np.array_equal(swapping.decode_matrix(message), vectors)


@pytest.mark.parametrize("length", [0, 4, 20, 23, 25, 28])
def test_a_wrong_length_is_refused_with_both_numbers(length: int) -> None:
    message = wire.Matrix(rows=2, dim=3, dtype=wire.DTYPE_FLOAT32, data=b"x" * length)
    with pytest.raises(InvalidArgumentError, match=rf"24 bytes, got {length}\b") as caught:
        codec.decode_matrix(message)
    assert caught.value.reason == "MATRIX_SIZE"


@pytest.mark.parametrize("rows_and_dim", [(2**32 - 1, 2**32 - 1), (2**31, 1)])
def test_a_claim_of_many_rows_allocates_nothing(rows_and_dim: tuple[int, int]) -> None:
    rows, dim = rows_and_dim
    message = wire.Matrix(rows=rows, dim=dim, dtype=wire.DTYPE_FLOAT32, data=b"abcd")
    with pytest.raises(InvalidArgumentError, match=str(4 * rows * dim)):
        codec.decode_matrix(message)


@pytest.mark.parametrize("dtype", [0, 2, 99])
def test_an_unknown_dtype_is_refused(dtype: int) -> None:
    message = wire.Matrix(rows=1, dim=1, data=b"abcd")
    message.dtype = dtype  # type: ignore[assignment]
    with pytest.raises(InvalidArgumentError, match=f"got {dtype}") as caught:
        codec.decode_matrix(message)
    assert caught.value.reason == "MATRIX_DTYPE"


def test_half_a_number_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="got 7"):
        codec.decode_floats(b"1234567")


@pytest.mark.parametrize(
    ("message", "vocabulary", "not_there"),
    [
        (wire.BackupReport, types.BackupReport, set()),
        (wire.CollectionStats, types.CollectionStats, set()),
        (wire.SegmentStats, types.SegmentStats, set()),
        (wire.ExportEnd, types.ExportEnd, set()),
        (wire.ImportReport, types.ImportReport, set()),
        (wire.SearchInfo, types.SearchInfo, {"visited", "deleted_visited", "gated"}),  # columns
    ],
)
def test_fields_are_called_as_in_the_vocabulary(
    message: type, vocabulary: type, not_there: set[str]
) -> None:
    on_the_wire = {field.name for field in message.DESCRIPTOR.fields}  # type: ignore[attr-defined]
    named = getattr(vocabulary, "_fields", None) or [field.name for field in fields(vocabulary)]
    assert on_the_wire == set(named) - not_there


NUMBERS = """
BackupReport path=1 collections=2 rows=3 bytes=4 elapsed_s=5
BackupRequest path=1 include_segments=2
BackupResponse report=1
CollectionConfig dim=1 metric=2 m=3 ef_construction=4 index_fields=5
CollectionDescription name=1 config=2 id=3 metadata=4
CollectionStats live_count=1 seq=2 generation=3 next_row=4 sealed_to=5 fresh_rows=6 unindexed_rows=7 store_bytes=8 segment_bytes=9 indexer=10 segments=11 oldest_pin_seq=12 oldest_pin_expires_s=13 readers=14 oldest_reader_lag=15 backlog_bytes=20 write_delay_s=21 recall_hour=22 recall_day=23
Comparison path=1 operator=2 values=3
CountRequest collection=1 namespace=2 filter=3 collection_id=4
CountResponse count=1
CreateCollectionRequest collection=1 namespace=2 config=3 metadata=4
CreateCollectionResponse collection=1
DeleteRequest collection=1 namespace=2 ids=3 filter=4 condition=6 request_id=7 collection_id=8 limit=9 dry_run=10
DeleteResponse seq=1 count=2 repeated_request=3
DropCollectionRequest collection=1 namespace=2
DropCollectionResponse
EndScrollRequest collection=1 namespace=2 token=3 collection_id=4
EndScrollResponse
ExportEnd rows=1 seq=2 bytes=3 sha256=4 work=5 work_s=6 numbered=7 token=8 config=9 normalized=10
ExportRequest collection=1 namespace=2 format=3 normalize_queries=4 collection_id=5
ExportResponse chunk=1 end=2
FacetRequest collection=1 namespace=2 filter=3 field=4 limit=5 collection_id=6
FacetResponse values=1 counts=2 distinct=3 rows=4 seq=5
Failure code=1 reason=2 message=3
FieldInfo name=1 rows=2 types=3 distinct=4
FieldsRequest collection=1 namespace=2 collection_id=3
FieldsResponse fields=1
Filter all_of=1 any_of=2 negated=3 comparison=4 id_in=5 id_prefix=6
FilterList filters=1
GetCollectionRequest collection=1 namespace=2 collection_id=3
GetCollectionResponse collection=1
GetRequest collection=1 namespace=2 ids=3 collection_id=4
GetResponse ids=1 vectors=2 metadata=3 missing=4 seq=5
IdList ids=1
ImportBegin collection=1 namespace=2 kind=3 metric=4 dim=5 bytes=6 side_bytes=7 file_name=8 side_name=9
ImportEnd sha256=1 side_sha256=2
ImportReport collection=1 made=2 kind=3 rows=4 skipped=5 graph=6 connected=7 seq=8 elapsed_s=9 assumed=10
ImportRequest begin=1 chunk=2 side_chunk=3 end=4
ImportResponse report=1
IndexFields fields=1
Limits dim_max=1 k_max=2 ef_max=3 results_per_call_max=4 batch_rows_max=5 id_bytes_max=6 metadata_bytes_max=7 metadata_depth_max=8 message_bytes=9 filter_depth_max=10 filter_terms_max=11 filter_operands_max=12 filter_bytes_max=13
ListIdsRequest collection=1 namespace=2 filter=3 prefix=4 limit=5 after=6 collection_id=7
ListIdsResponse ids=1
ListCollectionsRequest namespace=2
ListCollectionsResponse collections=1
Matrix rows=1 dim=2 dtype=3 data=4
MeasuredRecall measured=1 low=2 high=3 queries=4 promised=5
OptimizeRequest collection=1 namespace=2 collection_id=3
OptimizeResponse stats=1
RecallInfo expected=1 lower=2 target=3 rows=4 queries=5 measured_at=6
RenameCollectionRequest collection=1 namespace=2 new_name=3
RenameCollectionResponse
ScrollPageRequest collection=1 namespace=2 filter=3 token=4 batch=5 include_metadata=6 include_vectors=7 collection_id=8
ScrollPageResponse ids=1 vectors=2 metadata=3 seq=4 next_token=5
SearchInfo plan=1 exact=2 ef=3 matches=4 seq=5 verified=6 unindexed_rows=7 recall=8 explain=9
SearchRequest collection=1 namespace=2 queries=3 k=4 ef=5 exact=6 include_metadata=7 include_vectors=8 target_recall=9 filter=10 timeout_us=11 collection_id=12 filters=13 explain=25
SearchResponse counts=1 ids=2 distances=3 metadata=4 vectors=5 infos=6 visited=7 failure=8 deleted_visited=9
SegmentPlan segment=1 way=2 rows=3 matches=4 costs_us=5
SegmentStats number=1 kind=2 first_row=3 end_row=4 rows=5 dead=6 bytes=7 codes=8 codes_left_out=9 columns=10 columns_left_out=11
ServerInfoRequest
ServerInfoResponse version=1 data_format=2 limits=3 features=4
SetCollectionMetadataRequest collection=1 namespace=2 metadata=3 collection_id=4
SetCollectionMetadataResponse
SetMetadataRequest collection=1 namespace=2 ids=3 filter=4 patches=5 mode=6 condition=7 request_id=8 collection_id=9 limit=10 dry_run=11
SetMetadataResponse seq=1 count=2 repeated_request=3 skipped=4
StatsRequest collection=1 namespace=2 collection_id=3
StatsResponse stats=1
UpsertRequest collection=1 namespace=2 ids=3 vectors=4 metadata=5 condition=6 request_id=7 collection_id=8 on_existing=9
UpsertResponse seq=1 count=2 repeated_request=3 skipped=4
Value null_value=1 bool_value=2 int_value=3 double_value=4 string_value=5
WriteCondition insert_only=1 if_seq=2
"""  # noqa: E501


def test_field_numbers_are_for_ever() -> None:
    """A number in this list may be joined by others; it never changes and never goes."""
    now = {
        name: {field.name: field.number for field in message.fields}
        for name, message in wire.DESCRIPTOR.message_types_by_name.items()
    }
    for line in NUMBERS.strip().splitlines():
        name, *entries = line.split()
        for entry in entries:
            field, number = entry.split("=")
            assert now[name][field] == int(number), f"{name}.{field}"
    assert set(now) == {line.split()[0] for line in NUMBERS.strip().splitlines()}


def test_every_reason_of_a_refused_argument_is_in_the_contract() -> None:
    contract = (PACKAGE / "vecdb.proto").read_text()
    modules = (checks, filter_limits, index_fields, metadata_checks, vector_arrays, codec)
    sources = [Path(str(module.__file__)) for module in modules]
    raised = {
        reason
        for source in sources
        for reason in re.findall(r"\bReason\.([A-Z_]+)", source.read_text())
    }
    assert {"DIM_MISMATCH", "MATRIX_SIZE", "DUPLICATE_ID"} <= raised
    # What only an embedded caller can get wrong has no way onto the wire.
    raised -= {"NOT_A_LIST", "NOT_A_MATRIX", "NOT_AN_INTEGER", "NOT_A_FLAG", "NOT_A_FUNCTION"}
    raised -= {"MASKED", "BAD_OPTION"}
    assert {reason for reason in raised if reason not in contract} == set()


def test_reserved_fields_are_marked() -> None:
    contract = (PACKAGE / "vecdb.proto").read_text().splitlines()
    reserved = [line for line in contract if "namespace = 2" in line]
    assert len(reserved) == 21  # every call but ServerInfo and Backup
    assert all("[reserved]" in line for line in reserved)
