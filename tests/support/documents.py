# SPDX-License-Identifier: LGPL-2.1-or-later
"""Documents of a repository (docs/repository-format.md), as somebody would change them who can write there."""

import hashlib
import json


def reseal(path, change):
    """Changes a document of a repository and gives it the checksum that fits."""
    text = path.read_text(encoding="utf-8")
    kind = text[len('{"sha256":"') + 64 + 3 :].split('"', 1)[0]
    content = json.loads(text)[kind]
    change(content)
    inner = json.dumps(content, separators=(",", ":"))
    path.chmod(0o644)
    path.write_text(
        '{"sha256":"%s","%s":%s}\n' % (hashlib.sha256(inner.encode()).hexdigest(), kind, inner), encoding="utf-8"
    )
