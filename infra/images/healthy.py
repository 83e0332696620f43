#!/usr/bin/env python3
"""Exit 0 when the address, or $HEALTH_URL, answers 200: slim images have no curl."""

import os
import sys
import urllib.request

address = sys.argv[1] if len(sys.argv) > 1 else os.environ["HEALTH_URL"]
with urllib.request.urlopen(address, timeout=5) as answer:
    sys.exit(answer.status != 200)
