"""A client for tests to kill: opens streams at the address of its first argument, reads slowly, never ends by itself.

Prompts come as one JSON line on stdin: [[text, image as base64 or null], ...]; each stream that got its first piece
is one line on stdout. The last stream is never read.
"""

import base64
import json
import sys
import threading

from triptych.client import Client, TextStream, user_message

client = Client(sys.argv[1])
streams = []
for text, image in json.loads(sys.stdin.readline()):
    prompt = [user_message(text, images=[base64.b64decode(image)])] if image else text
    streams.append(client.stream(prompt, max_tokens=3500, temperature=0.0, ignore_eos=True))


def read(stream: TextStream) -> None:
    next(stream)
    print("streaming\n", end="", flush=True)  # one write: threads share the pipe
    for _ in stream:
        pass


for stream in streams[:-1]:
    threading.Thread(target=read, args=(stream,), daemon=True).start()
threading.Event().wait()
