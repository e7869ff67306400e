#!/bin/bash
# amqp-peer.sh PORT LOG [OPTION...]: runs servicebus_peer.py, which says what it does, with the
# Python that setup-amqp-peer.sh provides.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"
python=$FLEXKEEP_TOOLS/amqp-peer/bin/python
[ -x "$python" ] || die "no $python: run scripts/setup.sh"
exec "$python" "$here/servicebus_peer.py" "$@"
