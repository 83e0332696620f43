"""Ask a model that `tuneline serve` serves. Python's standard library only: copy it where you need it.

python infra/serve/client.py "name[Aromi], food[Thai]"
python infra/serve/client.py "What is due?" --system "Answer in one word." --max-new-tokens 8 --url http://HOST:5001
"""

import argparse
import json
import sys
import urllib.error
import urllib.request


def ask(url: str, prompt: str, system: str = "", max_new_tokens: int | None = None) -> str:
    """The answer to one prompt; more rows in one request are answered in their order."""
    row = {"prompt": prompt} | ({"system": system} if system else {})
    body = {"dataframe_records": [row]} | (
        {"params": {"max_new_tokens": max_new_tokens}} if max_new_tokens is not None else {}
    )
    request = urllib.request.Request(
        f"{url.rstrip('/')}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return str(json.load(answer)["predictions"][0])


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a model that tuneline serves.")
    parser.add_argument("prompt")
    parser.add_argument("--system", default="", help="system message")
    parser.add_argument("--max-new-tokens", type=int, help="default: what the model was evaluated with")
    parser.add_argument("--url", default="http://127.0.0.1:5001")
    asked = parser.parse_args()
    try:
        print(ask(asked.url, asked.prompt, asked.system, asked.max_new_tokens))
    except urllib.error.HTTPError as error:
        reason = error.read().decode("utf-8", "replace").strip().splitlines()
        sys.exit(f"client: {asked.url} refused it ({error.code}): {' '.join(reason)[:300]}")
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"client: no answer from {asked.url}: {error}. Is `tuneline serve` running there?")


if __name__ == "__main__":
    main()
