"""tritonclient in a process of its own: its `inference` stubs and ours can't share one.

As a script it reads one JSON call per line and writes one JSON reply per line. `TritonChild` is the
other end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Self


def _request(spec: dict[str, Any]) -> dict[str, Any]:
    """Arguments that `infer` and `async_stream_infer` share."""
    import numpy as np
    from tritonclient import grpc as triton

    inputs = []
    for name, datatype, shape, values in spec["inputs"]:
        tensor = triton.InferInput(name, shape, datatype)
        kind = {"BYTES": object, "INT32": np.int32, "INT64": np.int64, "UINT32": np.uint32}
        kind |= {"UINT64": np.uint64, "FP32": np.float32, "BOOL": np.bool_}
        if datatype == "BYTES":
            values = [value.encode() for value in values]
        tensor.set_data_from_numpy(np.array(values, dtype=kind[datatype]).reshape(shape))
        inputs.append(tensor)
    outputs = [triton.InferRequestedOutput(name) for name in spec.get("outputs", [])]
    names = ("parameters", "priority", "timeout", "client_timeout", "sequence_id", "headers")
    rest = {name: spec[name] for name in names if name in spec}
    return {
        "model_name": spec.get("model", "toy"),
        "inputs": inputs,
        "outputs": outputs or None,
        "request_id": spec.get("id", ""),
        "model_version": spec.get("version", ""),
        **rest,
    }


def _result(result: Any) -> dict[str, Any]:
    response = result.get_response()
    outputs = {}
    for output in response.outputs:
        array = result.as_numpy(output.name)
        values = array.tolist()
        if output.datatype == "BYTES":
            values = [value.decode() for value in array.reshape(-1)]
        outputs[output.name] = values
    parameters = {
        name: getattr(value, value.WhichOneof("parameter_choice"))
        for name, value in response.parameters.items()
    }
    facts = {"id": response.id, "model": response.model_name, "version": response.model_version}
    return {**facts, "outputs": outputs, "parameters": parameters}


def _stream(client: Any, call: dict[str, Any]) -> list[dict[str, Any]]:
    from threading import Event

    events: list[dict[str, Any]] = []
    is_enough = Event()
    leave_after = call.get("leave_after")

    def take(result: Any, error: Any) -> None:
        told = _result(result) if error is None else {"error": error.message()}
        events.append(told)
        if leave_after is not None and len(events) >= leave_after:
            is_enough.set()

    client.start_stream(callback=take, stream_timeout=call.get("stream_timeout"))
    for spec in call["requests"]:
        arguments = _request(spec)
        client.async_stream_infer(
            enable_empty_final_response=call.get("empty_final", False), **arguments
        )
    if leave_after is not None:
        is_enough.wait(30)
    client.stop_stream(cancel_requests=leave_after is not None)
    return events


def _answer(client: Any, call: dict[str, Any]) -> Any:
    match call["call"]:
        case "infer":
            return _result(client.infer(**_request(call)))
        case "stream":
            return _stream(client, call)
        case name:
            arguments = {key: value for key, value in call.items() if key != "call"}
            return getattr(client, name)(**arguments)


def main() -> None:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    for line in sys.stdin:
        address, call = json.loads(line)
        with InferenceServerClient(address) as client:
            try:
                reply = {"value": _answer(client, call)}
            except InferenceServerException as error:
                reply = {"error": error.message(), "status": error.status()}
        print(json.dumps(reply), flush=True)


class TritonError(Exception):
    """What tritonclient raised."""

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status


class TritonChild:
    """Calls the client by its methods' names, one at a time; `infer` and `stream` take specs.

    A spec: inputs as (name, datatype, shape, values), and whatever else `infer` takes by name.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def call(self, address: str, name: str, **arguments: Any) -> Any:
        """What the client of the gateway at `address` gives back; blocks until then."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps([address, {"call": name, **arguments}]).encode() + b"\n")
        stdin.flush()
        line = stdout.readline()
        assert line, "the client's process has ended; its words are above"
        reply = json.loads(line)
        if "error" in reply:
            raise TritonError(reply["error"], reply["status"])
        return reply["value"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    main()
