from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_FLOAT32: _ClassVar[DType]

class Metric(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METRIC_UNSPECIFIED: _ClassVar[Metric]
    METRIC_COSINE: _ClassVar[Metric]
    METRIC_EUCLIDEAN: _ClassVar[Metric]
    METRIC_DOT: _ClassVar[Metric]

class OnExisting(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_EXISTING_UNSPECIFIED: _ClassVar[OnExisting]
    ON_EXISTING_REPLACE: _ClassVar[OnExisting]
    ON_EXISTING_REFUSE: _ClassVar[OnExisting]
    ON_EXISTING_SKIP: _ClassVar[OnExisting]

class MetadataMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    METADATA_MODE_UNSPECIFIED: _ClassVar[MetadataMode]
    METADATA_MODE_MERGE: _ClassVar[MetadataMode]
    METADATA_MODE_REPLACE: _ClassVar[MetadataMode]
    METADATA_MODE_DELETE_KEYS: _ClassVar[MetadataMode]

class ExportFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPORT_FORMAT_UNSPECIFIED: _ClassVar[ExportFormat]
    EXPORT_FORMAT_FAISS: _ClassVar[ExportFormat]
    EXPORT_FORMAT_FAISS_FLAT: _ClassVar[ExportFormat]
    EXPORT_FORMAT_HNSWLIB: _ClassVar[ExportFormat]

class ImportKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMPORT_KIND_UNSPECIFIED: _ClassVar[ImportKind]
    IMPORT_KIND_FAISS: _ClassVar[ImportKind]
    IMPORT_KIND_HNSWLIB: _ClassVar[ImportKind]
DTYPE_UNSPECIFIED: DType
DTYPE_FLOAT32: DType
METRIC_UNSPECIFIED: Metric
METRIC_COSINE: Metric
METRIC_EUCLIDEAN: Metric
METRIC_DOT: Metric
ON_EXISTING_UNSPECIFIED: OnExisting
ON_EXISTING_REPLACE: OnExisting
ON_EXISTING_REFUSE: OnExisting
ON_EXISTING_SKIP: OnExisting
METADATA_MODE_UNSPECIFIED: MetadataMode
METADATA_MODE_MERGE: MetadataMode
METADATA_MODE_REPLACE: MetadataMode
METADATA_MODE_DELETE_KEYS: MetadataMode
EXPORT_FORMAT_UNSPECIFIED: ExportFormat
EXPORT_FORMAT_FAISS: ExportFormat
EXPORT_FORMAT_FAISS_FLAT: ExportFormat
EXPORT_FORMAT_HNSWLIB: ExportFormat
IMPORT_KIND_UNSPECIFIED: ImportKind
IMPORT_KIND_FAISS: ImportKind
IMPORT_KIND_HNSWLIB: ImportKind

class Matrix(_message.Message):
    __slots__ = ("rows", "dim", "dtype", "data")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    rows: int
    dim: int
    dtype: DType
    data: bytes
    def __init__(self, rows: _Optional[int] = ..., dim: _Optional[int] = ..., dtype: _Optional[_Union[DType, str]] = ..., data: _Optional[bytes] = ...) -> None: ...

class CollectionConfig(_message.Message):
    __slots__ = ("dim", "metric", "m", "ef_construction", "index_fields")
    DIM_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    M_FIELD_NUMBER: _ClassVar[int]
    EF_CONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELDS_FIELD_NUMBER: _ClassVar[int]
    dim: int
    metric: Metric
    m: int
    ef_construction: int
    index_fields: IndexFields
    def __init__(self, dim: _Optional[int] = ..., metric: _Optional[_Union[Metric, str]] = ..., m: _Optional[int] = ..., ef_construction: _Optional[int] = ..., index_fields: _Optional[_Union[IndexFields, _Mapping]] = ...) -> None: ...

class IndexFields(_message.Message):
    __slots__ = ("fields",)
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, fields: _Optional[_Iterable[str]] = ...) -> None: ...

class CollectionDescription(_message.Message):
    __slots__ = ("name", "config", "id", "metadata")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    config: CollectionConfig
    id: str
    metadata: bytes
    def __init__(self, name: _Optional[str] = ..., config: _Optional[_Union[CollectionConfig, _Mapping]] = ..., id: _Optional[str] = ..., metadata: _Optional[bytes] = ...) -> None: ...

class CreateCollectionRequest(_message.Message):
    __slots__ = ("collection", "namespace", "config", "metadata")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    config: CollectionConfig
    metadata: bytes
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., config: _Optional[_Union[CollectionConfig, _Mapping]] = ..., metadata: _Optional[bytes] = ...) -> None: ...

class CreateCollectionResponse(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: CollectionDescription
    def __init__(self, collection: _Optional[_Union[CollectionDescription, _Mapping]] = ...) -> None: ...

class GetCollectionRequest(_message.Message):
    __slots__ = ("collection", "namespace", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., collection_id: _Optional[str] = ...) -> None: ...

class GetCollectionResponse(_message.Message):
    __slots__ = ("collection",)
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    collection: CollectionDescription
    def __init__(self, collection: _Optional[_Union[CollectionDescription, _Mapping]] = ...) -> None: ...

class ListCollectionsRequest(_message.Message):
    __slots__ = ("namespace", "page_size", "after")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    page_size: int
    after: str
    def __init__(self, namespace: _Optional[str] = ..., page_size: _Optional[int] = ..., after: _Optional[str] = ...) -> None: ...

class ListCollectionsResponse(_message.Message):
    __slots__ = ("collections", "next")
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    collections: _containers.RepeatedCompositeFieldContainer[CollectionDescription]
    next: str
    def __init__(self, collections: _Optional[_Iterable[_Union[CollectionDescription, _Mapping]]] = ..., next: _Optional[str] = ...) -> None: ...

class SetCollectionMetadataRequest(_message.Message):
    __slots__ = ("collection", "namespace", "metadata", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    metadata: bytes
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., metadata: _Optional[bytes] = ..., collection_id: _Optional[str] = ...) -> None: ...

class SetCollectionMetadataResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RenameCollectionRequest(_message.Message):
    __slots__ = ("collection", "namespace", "new_name")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NEW_NAME_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    new_name: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., new_name: _Optional[str] = ...) -> None: ...

class RenameCollectionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DropCollectionRequest(_message.Message):
    __slots__ = ("collection", "namespace")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ...) -> None: ...

class DropCollectionResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WriteCondition(_message.Message):
    __slots__ = ("insert_only", "if_seq")
    INSERT_ONLY_FIELD_NUMBER: _ClassVar[int]
    IF_SEQ_FIELD_NUMBER: _ClassVar[int]
    insert_only: bool
    if_seq: int
    def __init__(self, insert_only: bool = ..., if_seq: _Optional[int] = ...) -> None: ...

class UpsertRequest(_message.Message):
    __slots__ = ("collection", "namespace", "ids", "vectors", "metadata", "condition", "request_id", "collection_id", "on_existing")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    ON_EXISTING_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    vectors: Matrix
    metadata: _containers.RepeatedScalarFieldContainer[bytes]
    condition: WriteCondition
    request_id: str
    collection_id: str
    on_existing: OnExisting
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., vectors: _Optional[_Union[Matrix, _Mapping]] = ..., metadata: _Optional[_Iterable[bytes]] = ..., condition: _Optional[_Union[WriteCondition, _Mapping]] = ..., request_id: _Optional[str] = ..., collection_id: _Optional[str] = ..., on_existing: _Optional[_Union[OnExisting, str]] = ...) -> None: ...

class UpsertResponse(_message.Message):
    __slots__ = ("seq", "count", "repeated_request", "skipped")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REPEATED_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    seq: int
    count: int
    repeated_request: bool
    skipped: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seq: _Optional[int] = ..., count: _Optional[int] = ..., repeated_request: bool = ..., skipped: _Optional[_Iterable[int]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("collection", "namespace", "ids", "filter", "condition", "request_id", "collection_id", "limit", "dry_run")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    filter: Filter
    condition: WriteCondition
    request_id: str
    collection_id: str
    limit: int
    dry_run: bool
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., condition: _Optional[_Union[WriteCondition, _Mapping]] = ..., request_id: _Optional[str] = ..., collection_id: _Optional[str] = ..., limit: _Optional[int] = ..., dry_run: bool = ...) -> None: ...

class DeleteResponse(_message.Message):
    __slots__ = ("seq", "count", "repeated_request")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REPEATED_REQUEST_FIELD_NUMBER: _ClassVar[int]
    seq: int
    count: int
    repeated_request: bool
    def __init__(self, seq: _Optional[int] = ..., count: _Optional[int] = ..., repeated_request: bool = ...) -> None: ...

class SetMetadataRequest(_message.Message):
    __slots__ = ("collection", "namespace", "ids", "filter", "patches", "mode", "condition", "request_id", "collection_id", "limit", "dry_run")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CONDITION_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    filter: Filter
    patches: _containers.RepeatedScalarFieldContainer[bytes]
    mode: MetadataMode
    condition: WriteCondition
    request_id: str
    collection_id: str
    limit: int
    dry_run: bool
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., patches: _Optional[_Iterable[bytes]] = ..., mode: _Optional[_Union[MetadataMode, str]] = ..., condition: _Optional[_Union[WriteCondition, _Mapping]] = ..., request_id: _Optional[str] = ..., collection_id: _Optional[str] = ..., limit: _Optional[int] = ..., dry_run: bool = ...) -> None: ...

class SetMetadataResponse(_message.Message):
    __slots__ = ("seq", "count", "repeated_request", "skipped")
    SEQ_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    REPEATED_REQUEST_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    seq: int
    count: int
    repeated_request: bool
    skipped: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, seq: _Optional[int] = ..., count: _Optional[int] = ..., repeated_request: bool = ..., skipped: _Optional[_Iterable[int]] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("collection", "namespace", "ids", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    ids: _containers.RepeatedScalarFieldContainer[str]
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., ids: _Optional[_Iterable[str]] = ..., collection_id: _Optional[str] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("ids", "vectors", "metadata", "missing", "seq")
    IDS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    vectors: Matrix
    metadata: _containers.RepeatedScalarFieldContainer[bytes]
    missing: _containers.RepeatedScalarFieldContainer[str]
    seq: int
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., vectors: _Optional[_Union[Matrix, _Mapping]] = ..., metadata: _Optional[_Iterable[bytes]] = ..., missing: _Optional[_Iterable[str]] = ..., seq: _Optional[int] = ...) -> None: ...

class ScrollPageRequest(_message.Message):
    __slots__ = ("collection", "namespace", "filter", "token", "batch", "include_metadata", "include_vectors", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_METADATA_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    filter: Filter
    token: str
    batch: int
    include_metadata: bool
    include_vectors: bool
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., token: _Optional[str] = ..., batch: _Optional[int] = ..., include_metadata: bool = ..., include_vectors: bool = ..., collection_id: _Optional[str] = ...) -> None: ...

class ScrollPageResponse(_message.Message):
    __slots__ = ("ids", "vectors", "metadata", "seq", "next_token")
    IDS_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    NEXT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    vectors: Matrix
    metadata: _containers.RepeatedScalarFieldContainer[bytes]
    seq: int
    next_token: str
    def __init__(self, ids: _Optional[_Iterable[str]] = ..., vectors: _Optional[_Union[Matrix, _Mapping]] = ..., metadata: _Optional[_Iterable[bytes]] = ..., seq: _Optional[int] = ..., next_token: _Optional[str] = ...) -> None: ...

class EndScrollRequest(_message.Message):
    __slots__ = ("collection", "namespace", "token", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    token: str
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., token: _Optional[str] = ..., collection_id: _Optional[str] = ...) -> None: ...

class EndScrollResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListIdsRequest(_message.Message):
    __slots__ = ("collection", "namespace", "filter", "prefix", "limit", "after", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    filter: Filter
    prefix: str
    limit: int
    after: str
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., prefix: _Optional[str] = ..., limit: _Optional[int] = ..., after: _Optional[str] = ..., collection_id: _Optional[str] = ...) -> None: ...

class ListIdsResponse(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class FacetRequest(_message.Message):
    __slots__ = ("collection", "namespace", "filter", "field", "limit", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FIELD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    filter: Filter
    field: str
    limit: int
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., field: _Optional[str] = ..., limit: _Optional[int] = ..., collection_id: _Optional[str] = ...) -> None: ...

class FacetResponse(_message.Message):
    __slots__ = ("values", "counts", "distinct", "rows", "seq")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[bytes]
    counts: _containers.RepeatedScalarFieldContainer[int]
    distinct: int
    rows: int
    seq: int
    def __init__(self, values: _Optional[_Iterable[bytes]] = ..., counts: _Optional[_Iterable[int]] = ..., distinct: _Optional[int] = ..., rows: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class FieldsRequest(_message.Message):
    __slots__ = ("collection", "namespace", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., collection_id: _Optional[str] = ...) -> None: ...

class FieldsResponse(_message.Message):
    __slots__ = ("fields",)
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    fields: _containers.RepeatedCompositeFieldContainer[FieldInfo]
    def __init__(self, fields: _Optional[_Iterable[_Union[FieldInfo, _Mapping]]] = ...) -> None: ...

class FieldInfo(_message.Message):
    __slots__ = ("name", "rows", "types", "distinct")
    class TypesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    DISTINCT_FIELD_NUMBER: _ClassVar[int]
    name: str
    rows: int
    types: _containers.ScalarMap[str, int]
    distinct: int
    def __init__(self, name: _Optional[str] = ..., rows: _Optional[int] = ..., types: _Optional[_Mapping[str, int]] = ..., distinct: _Optional[int] = ...) -> None: ...

class CountRequest(_message.Message):
    __slots__ = ("collection", "namespace", "filter", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    filter: Filter
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., collection_id: _Optional[str] = ...) -> None: ...

class CountResponse(_message.Message):
    __slots__ = ("count",)
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class SearchRequest(_message.Message):
    __slots__ = ("collection", "namespace", "queries", "k", "ef", "exact", "include_metadata", "include_vectors", "target_recall", "filter", "timeout_us", "collection_id", "filters", "near", "away", "max_distance", "group_by", "group_size", "explain")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EF_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_METADATA_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_VECTORS_FIELD_NUMBER: _ClassVar[int]
    TARGET_RECALL_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    NEAR_FIELD_NUMBER: _ClassVar[int]
    AWAY_FIELD_NUMBER: _ClassVar[int]
    MAX_DISTANCE_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZE_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    queries: Matrix
    k: int
    ef: int
    exact: bool
    include_metadata: bool
    include_vectors: bool
    target_recall: float
    filter: Filter
    timeout_us: int
    collection_id: str
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    near: _containers.RepeatedScalarFieldContainer[str]
    away: _containers.RepeatedScalarFieldContainer[str]
    max_distance: float
    group_by: _containers.RepeatedScalarFieldContainer[str]
    group_size: int
    explain: bool
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., queries: _Optional[_Union[Matrix, _Mapping]] = ..., k: _Optional[int] = ..., ef: _Optional[int] = ..., exact: bool = ..., include_metadata: bool = ..., include_vectors: bool = ..., target_recall: _Optional[float] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., timeout_us: _Optional[int] = ..., collection_id: _Optional[str] = ..., filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ..., near: _Optional[_Iterable[str]] = ..., away: _Optional[_Iterable[str]] = ..., max_distance: _Optional[float] = ..., group_by: _Optional[_Iterable[str]] = ..., group_size: _Optional[int] = ..., explain: bool = ...) -> None: ...

class SearchResponse(_message.Message):
    __slots__ = ("counts", "ids", "distances", "metadata", "vectors", "infos", "visited", "failure", "deleted_visited", "gated", "group_counts", "group_sizes", "group_values")
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    DISTANCES_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    INFOS_FIELD_NUMBER: _ClassVar[int]
    VISITED_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    DELETED_VISITED_FIELD_NUMBER: _ClassVar[int]
    GATED_FIELD_NUMBER: _ClassVar[int]
    GROUP_COUNTS_FIELD_NUMBER: _ClassVar[int]
    GROUP_SIZES_FIELD_NUMBER: _ClassVar[int]
    GROUP_VALUES_FIELD_NUMBER: _ClassVar[int]
    counts: _containers.RepeatedScalarFieldContainer[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    distances: bytes
    metadata: _containers.RepeatedScalarFieldContainer[bytes]
    vectors: Matrix
    infos: _containers.RepeatedCompositeFieldContainer[SearchInfo]
    visited: _containers.RepeatedScalarFieldContainer[int]
    failure: Failure
    deleted_visited: _containers.RepeatedScalarFieldContainer[int]
    gated: _containers.RepeatedScalarFieldContainer[int]
    group_counts: _containers.RepeatedScalarFieldContainer[int]
    group_sizes: _containers.RepeatedScalarFieldContainer[int]
    group_values: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, counts: _Optional[_Iterable[int]] = ..., ids: _Optional[_Iterable[str]] = ..., distances: _Optional[bytes] = ..., metadata: _Optional[_Iterable[bytes]] = ..., vectors: _Optional[_Union[Matrix, _Mapping]] = ..., infos: _Optional[_Iterable[_Union[SearchInfo, _Mapping]]] = ..., visited: _Optional[_Iterable[int]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., deleted_visited: _Optional[_Iterable[int]] = ..., gated: _Optional[_Iterable[int]] = ..., group_counts: _Optional[_Iterable[int]] = ..., group_sizes: _Optional[_Iterable[int]] = ..., group_values: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("code", "reason", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class SearchInfo(_message.Message):
    __slots__ = ("plan", "exact", "ef", "matches", "seq", "verified", "unindexed_rows", "recall", "explain")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    EF_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    UNINDEXED_ROWS_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    plan: str
    exact: bool
    ef: int
    matches: int
    seq: int
    verified: bool
    unindexed_rows: int
    recall: RecallInfo
    explain: _containers.RepeatedCompositeFieldContainer[SegmentPlan]
    def __init__(self, plan: _Optional[str] = ..., exact: bool = ..., ef: _Optional[int] = ..., matches: _Optional[int] = ..., seq: _Optional[int] = ..., verified: bool = ..., unindexed_rows: _Optional[int] = ..., recall: _Optional[_Union[RecallInfo, _Mapping]] = ..., explain: _Optional[_Iterable[_Union[SegmentPlan, _Mapping]]] = ...) -> None: ...

class SegmentPlan(_message.Message):
    __slots__ = ("segment", "way", "rows", "matches", "costs_us")
    class CostsUsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    COSTS_US_FIELD_NUMBER: _ClassVar[int]
    segment: int
    way: str
    rows: int
    matches: int
    costs_us: _containers.ScalarMap[str, float]
    def __init__(self, segment: _Optional[int] = ..., way: _Optional[str] = ..., rows: _Optional[int] = ..., matches: _Optional[int] = ..., costs_us: _Optional[_Mapping[str, float]] = ...) -> None: ...

class RecallInfo(_message.Message):
    __slots__ = ("expected", "lower", "target", "rows", "queries", "measured_at")
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    LOWER_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    MEASURED_AT_FIELD_NUMBER: _ClassVar[int]
    expected: float
    lower: float
    target: float
    rows: int
    queries: int
    measured_at: float
    def __init__(self, expected: _Optional[float] = ..., lower: _Optional[float] = ..., target: _Optional[float] = ..., rows: _Optional[int] = ..., queries: _Optional[int] = ..., measured_at: _Optional[float] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("all_of", "any_of", "negated", "comparison", "id_in", "id_prefix")
    ALL_OF_FIELD_NUMBER: _ClassVar[int]
    ANY_OF_FIELD_NUMBER: _ClassVar[int]
    NEGATED_FIELD_NUMBER: _ClassVar[int]
    COMPARISON_FIELD_NUMBER: _ClassVar[int]
    ID_IN_FIELD_NUMBER: _ClassVar[int]
    ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    all_of: FilterList
    any_of: FilterList
    negated: Filter
    comparison: Comparison
    id_in: IdList
    id_prefix: str
    def __init__(self, all_of: _Optional[_Union[FilterList, _Mapping]] = ..., any_of: _Optional[_Union[FilterList, _Mapping]] = ..., negated: _Optional[_Union[Filter, _Mapping]] = ..., comparison: _Optional[_Union[Comparison, _Mapping]] = ..., id_in: _Optional[_Union[IdList, _Mapping]] = ..., id_prefix: _Optional[str] = ...) -> None: ...

class FilterList(_message.Message):
    __slots__ = ("filters",)
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    filters: _containers.RepeatedCompositeFieldContainer[Filter]
    def __init__(self, filters: _Optional[_Iterable[_Union[Filter, _Mapping]]] = ...) -> None: ...

class IdList(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Comparison(_message.Message):
    __slots__ = ("path", "operator", "values")
    class Operator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPERATOR_UNSPECIFIED: _ClassVar[Comparison.Operator]
        OPERATOR_EQUAL: _ClassVar[Comparison.Operator]
        OPERATOR_NOT_EQUAL: _ClassVar[Comparison.Operator]
        OPERATOR_LESS: _ClassVar[Comparison.Operator]
        OPERATOR_LESS_OR_EQUAL: _ClassVar[Comparison.Operator]
        OPERATOR_GREATER: _ClassVar[Comparison.Operator]
        OPERATOR_GREATER_OR_EQUAL: _ClassVar[Comparison.Operator]
        OPERATOR_IN: _ClassVar[Comparison.Operator]
        OPERATOR_NOT_IN: _ClassVar[Comparison.Operator]
        OPERATOR_EXISTS: _ClassVar[Comparison.Operator]
        OPERATOR_CONTAINS: _ClassVar[Comparison.Operator]
        OPERATOR_CONTAINS_ALL: _ClassVar[Comparison.Operator]
        OPERATOR_PREFIX: _ClassVar[Comparison.Operator]
    OPERATOR_UNSPECIFIED: Comparison.Operator
    OPERATOR_EQUAL: Comparison.Operator
    OPERATOR_NOT_EQUAL: Comparison.Operator
    OPERATOR_LESS: Comparison.Operator
    OPERATOR_LESS_OR_EQUAL: Comparison.Operator
    OPERATOR_GREATER: Comparison.Operator
    OPERATOR_GREATER_OR_EQUAL: Comparison.Operator
    OPERATOR_IN: Comparison.Operator
    OPERATOR_NOT_IN: Comparison.Operator
    OPERATOR_EXISTS: Comparison.Operator
    OPERATOR_CONTAINS: Comparison.Operator
    OPERATOR_CONTAINS_ALL: Comparison.Operator
    OPERATOR_PREFIX: Comparison.Operator
    PATH_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    path: _containers.RepeatedScalarFieldContainer[str]
    operator: Comparison.Operator
    values: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, path: _Optional[_Iterable[str]] = ..., operator: _Optional[_Union[Comparison.Operator, str]] = ..., values: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class Value(_message.Message):
    __slots__ = ("null_value", "bool_value", "int_value", "double_value", "string_value")
    NULL_VALUE_FIELD_NUMBER: _ClassVar[int]
    BOOL_VALUE_FIELD_NUMBER: _ClassVar[int]
    INT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_VALUE_FIELD_NUMBER: _ClassVar[int]
    STRING_VALUE_FIELD_NUMBER: _ClassVar[int]
    null_value: bool
    bool_value: bool
    int_value: int
    double_value: float
    string_value: str
    def __init__(self, null_value: bool = ..., bool_value: bool = ..., int_value: _Optional[int] = ..., double_value: _Optional[float] = ..., string_value: _Optional[str] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ("collection", "namespace", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., collection_id: _Optional[str] = ...) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: CollectionStats
    def __init__(self, stats: _Optional[_Union[CollectionStats, _Mapping]] = ...) -> None: ...

class OptimizeRequest(_message.Message):
    __slots__ = ("collection", "namespace", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., collection_id: _Optional[str] = ...) -> None: ...

class OptimizeResponse(_message.Message):
    __slots__ = ("stats",)
    STATS_FIELD_NUMBER: _ClassVar[int]
    stats: CollectionStats
    def __init__(self, stats: _Optional[_Union[CollectionStats, _Mapping]] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ("path", "include_segments")
    PATH_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    path: str
    include_segments: bool
    def __init__(self, path: _Optional[str] = ..., include_segments: bool = ...) -> None: ...

class BackupResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: BackupReport
    def __init__(self, report: _Optional[_Union[BackupReport, _Mapping]] = ...) -> None: ...

class BackupReport(_message.Message):
    __slots__ = ("path", "collections", "rows", "bytes", "elapsed_s")
    PATH_FIELD_NUMBER: _ClassVar[int]
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    path: str
    collections: int
    rows: int
    bytes: int
    elapsed_s: float
    def __init__(self, path: _Optional[str] = ..., collections: _Optional[int] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ..., elapsed_s: _Optional[float] = ...) -> None: ...

class CollectionStats(_message.Message):
    __slots__ = ("live_count", "seq", "generation", "next_row", "sealed_to", "fresh_rows", "unindexed_rows", "store_bytes", "segment_bytes", "indexer", "segments", "oldest_pin_seq", "oldest_pin_expires_s", "readers", "oldest_reader_lag", "backlog_bytes", "write_delay_s", "recall_hour", "recall_day")
    LIVE_COUNT_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    NEXT_ROW_FIELD_NUMBER: _ClassVar[int]
    SEALED_TO_FIELD_NUMBER: _ClassVar[int]
    FRESH_ROWS_FIELD_NUMBER: _ClassVar[int]
    UNINDEXED_ROWS_FIELD_NUMBER: _ClassVar[int]
    STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEXER_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PIN_SEQ_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PIN_EXPIRES_S_FIELD_NUMBER: _ClassVar[int]
    READERS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_READER_LAG_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITE_DELAY_S_FIELD_NUMBER: _ClassVar[int]
    RECALL_HOUR_FIELD_NUMBER: _ClassVar[int]
    RECALL_DAY_FIELD_NUMBER: _ClassVar[int]
    live_count: int
    seq: int
    generation: int
    next_row: int
    sealed_to: int
    fresh_rows: int
    unindexed_rows: int
    store_bytes: int
    segment_bytes: int
    indexer: str
    segments: _containers.RepeatedCompositeFieldContainer[SegmentStats]
    oldest_pin_seq: int
    oldest_pin_expires_s: float
    readers: int
    oldest_reader_lag: int
    backlog_bytes: int
    write_delay_s: float
    recall_hour: MeasuredRecall
    recall_day: MeasuredRecall
    def __init__(self, live_count: _Optional[int] = ..., seq: _Optional[int] = ..., generation: _Optional[int] = ..., next_row: _Optional[int] = ..., sealed_to: _Optional[int] = ..., fresh_rows: _Optional[int] = ..., unindexed_rows: _Optional[int] = ..., store_bytes: _Optional[int] = ..., segment_bytes: _Optional[int] = ..., indexer: _Optional[str] = ..., segments: _Optional[_Iterable[_Union[SegmentStats, _Mapping]]] = ..., oldest_pin_seq: _Optional[int] = ..., oldest_pin_expires_s: _Optional[float] = ..., readers: _Optional[int] = ..., oldest_reader_lag: _Optional[int] = ..., backlog_bytes: _Optional[int] = ..., write_delay_s: _Optional[float] = ..., recall_hour: _Optional[_Union[MeasuredRecall, _Mapping]] = ..., recall_day: _Optional[_Union[MeasuredRecall, _Mapping]] = ...) -> None: ...

class MeasuredRecall(_message.Message):
    __slots__ = ("measured", "low", "high", "queries", "promised")
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    measured: float
    low: float
    high: float
    queries: int
    promised: float
    def __init__(self, measured: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ..., queries: _Optional[int] = ..., promised: _Optional[float] = ...) -> None: ...

class SegmentStats(_message.Message):
    __slots__ = ("number", "kind", "first_row", "end_row", "rows", "dead", "bytes", "codes", "codes_left_out", "columns", "columns_left_out")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    FIRST_ROW_FIELD_NUMBER: _ClassVar[int]
    END_ROW_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    DEAD_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    CODES_FIELD_NUMBER: _ClassVar[int]
    CODES_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    number: int
    kind: str
    first_row: int
    end_row: int
    rows: int
    dead: int
    bytes: int
    codes: str
    codes_left_out: str
    columns: str
    columns_left_out: str
    def __init__(self, number: _Optional[int] = ..., kind: _Optional[str] = ..., first_row: _Optional[int] = ..., end_row: _Optional[int] = ..., rows: _Optional[int] = ..., dead: _Optional[int] = ..., bytes: _Optional[int] = ..., codes: _Optional[str] = ..., codes_left_out: _Optional[str] = ..., columns: _Optional[str] = ..., columns_left_out: _Optional[str] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("collection", "namespace", "format", "normalize_queries", "collection_id")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_QUERIES_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    format: ExportFormat
    normalize_queries: bool
    collection_id: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., format: _Optional[_Union[ExportFormat, str]] = ..., normalize_queries: bool = ..., collection_id: _Optional[str] = ...) -> None: ...

class ExportResponse(_message.Message):
    __slots__ = ("chunk", "end")
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    chunk: bytes
    end: ExportEnd
    def __init__(self, chunk: _Optional[bytes] = ..., end: _Optional[_Union[ExportEnd, _Mapping]] = ...) -> None: ...

class ExportEnd(_message.Message):
    __slots__ = ("rows", "seq", "bytes", "sha256", "work", "work_s", "numbered", "token", "config", "normalized")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    WORK_S_FIELD_NUMBER: _ClassVar[int]
    NUMBERED_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    NORMALIZED_FIELD_NUMBER: _ClassVar[int]
    rows: int
    seq: int
    bytes: int
    sha256: str
    work: str
    work_s: float
    numbered: bool
    token: str
    config: CollectionConfig
    normalized: bool
    def __init__(self, rows: _Optional[int] = ..., seq: _Optional[int] = ..., bytes: _Optional[int] = ..., sha256: _Optional[str] = ..., work: _Optional[str] = ..., work_s: _Optional[float] = ..., numbered: bool = ..., token: _Optional[str] = ..., config: _Optional[_Union[CollectionConfig, _Mapping]] = ..., normalized: bool = ...) -> None: ...

class ImportRequest(_message.Message):
    __slots__ = ("begin", "chunk", "side_chunk", "end")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    SIDE_CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    begin: ImportBegin
    chunk: bytes
    side_chunk: bytes
    end: ImportEnd
    def __init__(self, begin: _Optional[_Union[ImportBegin, _Mapping]] = ..., chunk: _Optional[bytes] = ..., side_chunk: _Optional[bytes] = ..., end: _Optional[_Union[ImportEnd, _Mapping]] = ...) -> None: ...

class ImportBegin(_message.Message):
    __slots__ = ("collection", "namespace", "kind", "metric", "dim", "bytes", "side_bytes", "file_name", "side_name")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    DIM_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    SIDE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    SIDE_NAME_FIELD_NUMBER: _ClassVar[int]
    collection: str
    namespace: str
    kind: ImportKind
    metric: Metric
    dim: int
    bytes: int
    side_bytes: int
    file_name: str
    side_name: str
    def __init__(self, collection: _Optional[str] = ..., namespace: _Optional[str] = ..., kind: _Optional[_Union[ImportKind, str]] = ..., metric: _Optional[_Union[Metric, str]] = ..., dim: _Optional[int] = ..., bytes: _Optional[int] = ..., side_bytes: _Optional[int] = ..., file_name: _Optional[str] = ..., side_name: _Optional[str] = ...) -> None: ...

class ImportEnd(_message.Message):
    __slots__ = ("sha256", "side_sha256")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIDE_SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    side_sha256: str
    def __init__(self, sha256: _Optional[str] = ..., side_sha256: _Optional[str] = ...) -> None: ...

class ImportResponse(_message.Message):
    __slots__ = ("report",)
    REPORT_FIELD_NUMBER: _ClassVar[int]
    report: ImportReport
    def __init__(self, report: _Optional[_Union[ImportReport, _Mapping]] = ...) -> None: ...

class ImportReport(_message.Message):
    __slots__ = ("collection", "made", "kind", "rows", "skipped", "graph", "connected", "seq", "elapsed_s", "assumed")
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_S_FIELD_NUMBER: _ClassVar[int]
    ASSUMED_FIELD_NUMBER: _ClassVar[int]
    collection: str
    made: bool
    kind: str
    rows: int
    skipped: int
    graph: str
    connected: int
    seq: int
    elapsed_s: float
    assumed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, collection: _Optional[str] = ..., made: bool = ..., kind: _Optional[str] = ..., rows: _Optional[int] = ..., skipped: _Optional[int] = ..., graph: _Optional[str] = ..., connected: _Optional[int] = ..., seq: _Optional[int] = ..., elapsed_s: _Optional[float] = ..., assumed: _Optional[_Iterable[str]] = ...) -> None: ...

class ServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServerInfoResponse(_message.Message):
    __slots__ = ("version", "data_format", "limits", "features")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DATA_FORMAT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    version: str
    data_format: int
    limits: Limits
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., data_format: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("dim_max", "k_max", "ef_max", "results_per_call_max", "batch_rows_max", "id_bytes_max", "metadata_bytes_max", "metadata_depth_max", "message_bytes", "filter_depth_max", "filter_terms_max", "filter_operands_max", "filter_bytes_max")
    DIM_MAX_FIELD_NUMBER: _ClassVar[int]
    K_MAX_FIELD_NUMBER: _ClassVar[int]
    EF_MAX_FIELD_NUMBER: _ClassVar[int]
    RESULTS_PER_CALL_MAX_FIELD_NUMBER: _ClassVar[int]
    BATCH_ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    ID_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    METADATA_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    METADATA_DEPTH_MAX_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILTER_DEPTH_MAX_FIELD_NUMBER: _ClassVar[int]
    FILTER_TERMS_MAX_FIELD_NUMBER: _ClassVar[int]
    FILTER_OPERANDS_MAX_FIELD_NUMBER: _ClassVar[int]
    FILTER_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    dim_max: int
    k_max: int
    ef_max: int
    results_per_call_max: int
    batch_rows_max: int
    id_bytes_max: int
    metadata_bytes_max: int
    metadata_depth_max: int
    message_bytes: int
    filter_depth_max: int
    filter_terms_max: int
    filter_operands_max: int
    filter_bytes_max: int
    def __init__(self, dim_max: _Optional[int] = ..., k_max: _Optional[int] = ..., ef_max: _Optional[int] = ..., results_per_call_max: _Optional[int] = ..., batch_rows_max: _Optional[int] = ..., id_bytes_max: _Optional[int] = ..., metadata_bytes_max: _Optional[int] = ..., metadata_depth_max: _Optional[int] = ..., message_bytes: _Optional[int] = ..., filter_depth_max: _Optional[int] = ..., filter_terms_max: _Optional[int] = ..., filter_operands_max: _Optional[int] = ..., filter_bytes_max: _Optional[int] = ...) -> None: ...
