"""Targets of training: records of progress, metadata of a state, tensors of split learning."""

from __future__ import annotations

import math

import torch

import training
from p2p import MessageInvalid, encode
from tests.fuzz.messages import kinds_of, message_target, modules_of
from tests.fuzz.target import Target
from tests.training.data.test_news import RECORDED as NEWS_RECORDED
from tests.training.metrics.test_schema import RECORDED as METRICS_RECORDED
from tests.training.privacy.inference.test_schema import RECORDED as PRIVACY_RECORDED
from tests.training.progress.test_schema import MESSAGE, RECORDED
from tests.training.split.test_schema import RECORDED as SPLIT_RECORDED
from tests.training.test_state_metadata import POSITION, SCALARS
from training.data.news import decode_news_untrusted, encode_news
from training.data.shares import ShardShare
from training.metrics import decode_metrics_untrusted
from training.progress.schema import decode_record_untrusted, message_of, record_of
from training.split.wire import TensorWire, decode_labels_untrusted, encode_labels
from training.state_metadata import decode_metadata_untrusted, encode_metadata


def run_record(data: bytes) -> None:
    try:
        message = decode_record_untrusted(data)
    except MessageInvalid:
        return
    record = record_of(message)
    assert message_of(record, life_s=message.life_s, addresses=message.addresses) == message


def run_metrics(data: bytes) -> None:
    try:
        metrics = decode_metrics_untrusted(data)
    except MessageInvalid:
        return
    assert metrics.loss is None or math.isfinite(metrics.loss)
    assert math.isfinite(metrics.samples_per_s)
    assert metrics.version.isprintable()
    assert decode_metrics_untrusted(encode(metrics)) == metrics


def run_shards(data: bytes) -> None:
    try:
        news = decode_news_untrusted(data)
    except MessageInvalid:
        return
    assert decode_news_untrusted(encode_news(news)) == news
    share = ShardShare(shard_count=20, seed=0, peer_id="alice")
    share.on_peers(["bob"])
    share.on_news("bob", news)
    assert share.next_turn().shard < 20


def run_metadata(data: bytes) -> None:
    try:
        metadata = decode_metadata_untrusted(data, version=POSITION.round.number)
    except MessageInvalid:
        return
    assert metadata.position.round.number == POSITION.round.number
    again = encode_metadata(
        metadata.position, equalized=metadata.equalized, scalars=metadata.scalars
    )
    # Bytes are compared, since an impossible number (NaN) is equal to none.
    assert again == encode(metadata)


def run_split_values(data: bytes) -> None:
    if not data:
        return
    name = ("float64", "float32", "float16", "bfloat16")[data[0] % 4]
    wire = TensorWire(name, "float32" if data[0] & 4 else "float64")
    try:
        values = wire.decode_untrusted(data[1:], (2, 3))
    except MessageInvalid:
        return
    assert values.shape == (2, 3)
    assert bool(values.isfinite().all())


def run_split_labels(data: bytes) -> None:
    if not data:
        return
    dtype = ("int64", "float32", "float64")[data[0] % 3]
    try:
        labels = decode_labels_untrusted(data[1:], (2, 2), dtype)
    except MessageInvalid:
        return
    payload, shape, name = encode_labels(labels)
    assert (bytes(payload), shape, name) == (data[1:], (2,), dtype)


TARGETS = (
    message_target(
        "training.messages",
        kinds_of(modules_of(training)),
        [
            (message, bytes.fromhex(recorded))
            for message, recorded in [
                *RECORDED,
                *METRICS_RECORDED,
                *NEWS_RECORDED,
                *PRIVACY_RECORDED,
                *SPLIT_RECORDED,
            ]
        ],
    ),
    Target(
        name="training.progress-record",
        run=run_record,
        seeds=(encode(MESSAGE),),
        covers=("training.progress.schema.decode_record_untrusted",),
    ),
    Target(
        name="training.metrics-record",
        run=run_metrics,
        seeds=tuple(bytes.fromhex(recorded) for _, recorded in METRICS_RECORDED),
        covers=("training.metrics.schema.decode_metrics_untrusted",),
    ),
    Target(
        name="training.shards-record",
        run=run_shards,
        seeds=tuple(bytes.fromhex(recorded) for _, recorded in NEWS_RECORDED),
        covers=("training.data.news.decode_news_untrusted",),
    ),
    Target(
        name="training.state-metadata",
        run=run_metadata,
        seeds=(encode_metadata(POSITION, equalized=True, scalars=SCALARS),),
        covers=("training.state_metadata.decode_metadata_untrusted",),
    ),
    Target(
        name="training.split-values",
        run=run_split_values,
        seeds=tuple(
            bytes([kind]) + bytes(TensorWire(name, dtype).encode(torch.arange(6.0), 1))
            for kind, (name, dtype) in enumerate(
                [
                    *((name, "float64") for name in ("float64", "float32", "float16", "bfloat16")),
                    *((name, "float32") for name in ("float64", "float32", "float16", "bfloat16")),
                ]
            )
        ),
        covers=("training.split.wire.decode_untrusted",),
    ),
    Target(
        name="training.split-labels",
        run=run_split_labels,
        seeds=(bytes(33), b"\x01" + bytes(16), b"\x02" + bytes(32)),
        covers=("training.split.wire.decode_labels_untrusted",),
    ),
)
