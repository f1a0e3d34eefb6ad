"""Whole answers: the same request until one comes back."""

import asyncio
from typing import Protocol

import grpc
from grpc import aio

from triptych.client.line import AsyncLine, Call, Line
from triptych.client.stream import own_task_is_cancelled
from triptych.inference.v1 import inference_pb2 as pb

AsyncAnswer = aio.UnaryUnaryCall[pb.GenerateRequest, pb.GenerateResponse]


class Answer(Call, Protocol):
    """A call that has one answer."""

    def result(self) -> pb.GenerateResponse:
        """Waits for it."""


def answer(line: Line[Answer]) -> pb.GenerateResponse:
    """Waits for the answer.

    Raises:
        TriptychError: there is none.
    """
    try:
        while True:
            try:
                response = line.call.result()
            except grpc.RpcError as error:
                line.redial(error, ())
            else:
                line.pursuit.heard()
                line.pursuit.done()
                return response
    except grpc.FutureCancelledError:
        raise line.pursuit.cancelled() from None
    except BaseException:
        line.cut()
        raise


async def answer_async(line: "AsyncLine[AsyncAnswer]") -> pb.GenerateResponse:
    """`answer` for asyncio."""
    try:
        while True:
            try:
                response = await line.call
            except grpc.RpcError as error:
                await line.redial(error, ())
            else:
                line.pursuit.heard()
                line.pursuit.done()
                return response
    except asyncio.CancelledError:
        line.cut()
        if own_task_is_cancelled():
            raise
        raise line.pursuit.cancelled() from None
