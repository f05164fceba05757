"""Small real servers of OpenAI's chat protocol: one with a real model behind it, one that misbehaves on demand."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(reply, models=("tiny",)):
    """Serve until the block ends.

    Args:
        reply: from the request's document to an answer's text, or to (status, headers, body bytes), or None to cut the
            connection in the middle of the answer.
        models: names that /models lists.

    Yields:
        An object with `url`, and `requests`: what came, as (path, headers, document).
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            """Quiet."""

        def do_GET(self):
            server.requests.append((self.path, headers_of(self), None))
            self.send(
                200,
                {},
                json.dumps({"object": "list", "data": [{"id": m, "object": "model"} for m in models]}),
            )

        def do_POST(self):
            document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append((self.path, headers_of(self), document))
            found = reply(document)
            if found is None:
                self.wfile.write(
                    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"id":'
                )
                self.wfile.flush()
                self.close_connection = True
            elif isinstance(found, str):
                self.send(200, {}, json.dumps(completion(found, document)))
            else:
                self.send(*found)

        def send(self, status, headers, body):
            body = body.encode() if isinstance(body, str) else body
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except BrokenPipeError:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.requests = []
    server.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def completion(text, document, usage=(10, 5)):
    asked, said = usage
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": document["model"],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }


def failure(status, message="no", headers=None):
    return status, headers or {}, json.dumps({"error": {"message": message, "type": "error"}})


def language_model_reply(loaded):
    """Answers of a real chat model by greedy decoding; one request at a time."""
    import torch

    lock = threading.Lock()

    def reply(document):
        tokenizer, model = loaded.processor, loaded.model
        with lock, torch.no_grad():
            ids = tokenizer.apply_chat_template(
                document["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            out = model.generate(**ids, max_new_tokens=document.get("max_tokens", 60), do_sample=False)
        new = out[0, ids["input_ids"].shape[1] :]
        text = tokenizer.decode(new, skip_special_tokens=True)
        body = completion(text, document, (ids["input_ids"].shape[1], len(new)))
        return 200, {}, json.dumps(body)

    return reply


def headers_of(handler):
    return {name.lower(): value for name, value in handler.headers.items()}
