#!/usr/bin/env bash
# Run the commands of the README's session: the block after the line `<!-- session -->`.
#
#   AUDIT_ARGS=--quick tests/readme_session.sh      with a short audit
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

session=$(awk '/^<!-- session -->$/ { wanted = 1; next }
               wanted && /^```/ { if (inside) exit; inside = 1; next }
               inside { print }' README.md)
if [ -z "$session" ]; then
  echo "README.md: expected a code block after the line <!-- session -->" >&2
  exit 1
fi
bash -euxo pipefail -c "$session"
