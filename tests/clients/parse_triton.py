"""Print a ``config.pbtxt`` as JSON, read by Triton's own protobuf: python parse_triton.py FILE."""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig  # type: ignore[import-not-found]

config = text_format.Parse(Path(sys.argv[1]).read_text("utf-8"), ModelConfig())
sys.stdout.write(json_format.MessageToJson(config, preserving_proto_field_name=True))
