"""What gRPC's errors carry beside their code: the google.rpc.Status in their trailers."""

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

_STATUS_DETAILS_KEY = "grpc-status-details-bin"


def status_in(error: grpc.RpcError) -> Status:
    """The google.rpc.Status in the trailers; empty when there is none that can be read."""
    trailers = error.trailing_metadata() if isinstance(error, (grpc.aio.AioRpcError, grpc.Call)) else None
    for key, value in trailers or ():
        if key == _STATUS_DETAILS_KEY and isinstance(value, bytes):
            try:
                return Status.FromString(value)
            except DecodeError:  # a proxy's, or a newer coordinator's: the code and the message still hold
                break
    return Status()


def info_in(error: grpc.RpcError) -> ErrorInfo:
    """Its reason, for programs; empty when it has none: then it isn't a coordinator's."""
    info = ErrorInfo()
    for detail in status_in(error).details:
        if detail.Unpack(info):
            break
    return info
