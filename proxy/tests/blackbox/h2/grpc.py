"""A gRPC service of bytes, and a client of it: `serve PORT` or `ask ADDRESS AUTHORITY`."""

import sys
from concurrent import futures

import grpc


class Service(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.rsplit("/", 1)[-1]
        if name == "Unary":
            return grpc.unary_unary_rpc_method_handler(unary)
        if name == "Both":
            return grpc.stream_stream_rpc_method_handler(both)
        return None


def unary(request, context):
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as you wish")
    context.set_trailing_metadata((("x-sum", str(len(request))),))
    return request[::-1]


def both(requests, context):
    for request in requests:
        yield request + b"!"


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    server.add_generic_rpc_handlers((Service(),))
    server.add_insecure_port("127.0.0.1:" + port)
    server.start()
    server.wait_for_termination()


def ask(address, authority):
    options = (("grpc.default_authority", authority), ("grpc.enable_http_proxy", 0))
    channel = grpc.insecure_channel(address, options)
    call = channel.unary_unary("/test.Echo/Unary")
    answer, details = call.with_call(b"abc" * 50000, timeout=10, wait_for_ready=True)
    assert answer == b"cba" * 50000
    assert ("x-sum", "150000") in tuple(details.trailing_metadata())
    try:
        call(b"fail", timeout=10)
        raise AssertionError("it did not fail")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "as you wish", error
    stream = channel.stream_stream("/test.Echo/Both")
    heard = list(stream(iter([b"a", b"b", b"c"]), timeout=10))
    assert heard == [b"a!", b"b!", b"c!"], heard
    try:
        channel.unary_unary("/test.Echo/None")(b"", timeout=10)
        raise AssertionError("there is no such method")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    print("ok")


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    ask(sys.argv[2], sys.argv[3])
