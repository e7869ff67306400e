#!/bin/bash
# Says where the servers, the AMQP broker and Azurite are that scripts/setup.sh provides for tests.
# Source it to export the variables, or run it to print them: eval "$(scripts/env.sh)". A variable
# that is already set is kept.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
for flexkeep_major in 15 17 18; do
  flexkeep_name=FLEXKEEP_PG${flexkeep_major}_BIN
  flexkeep_bin=$FLEXKEEP_TOOLS/pg$flexkeep_major/usr/lib/postgresql/$flexkeep_major/bin
  export "$flexkeep_name=${!flexkeep_name:-$flexkeep_bin}"
  [ "${BASH_SOURCE[0]}" != "$0" ] || printf 'export %s=%q\n' "$flexkeep_name" "${!flexkeep_name}"
done
for flexkeep_major in 13 14 16; do
  flexkeep_name=FLEXKEEP_PG${flexkeep_major}_BIN
  flexkeep_bin=$FLEXKEEP_TOOLS/pg$flexkeep_major/bin
  export "$flexkeep_name=${!flexkeep_name:-$flexkeep_bin}"
  [ "${BASH_SOURCE[0]}" != "$0" ] || printf 'export %s=%q\n' "$flexkeep_name" "${!flexkeep_name}"
done
export FLEXKEEP_REGRESS=${FLEXKEEP_REGRESS:-$FLEXKEEP_TOOLS/regress}
[ "${BASH_SOURCE[0]}" != "$0" ] || printf 'export FLEXKEEP_REGRESS=%q\n' "$FLEXKEEP_REGRESS"
flexkeep_peer=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/amqp-peer.sh
export FLEXKEEP_AMQP_PEER=${FLEXKEEP_AMQP_PEER:-$flexkeep_peer}
[ "${BASH_SOURCE[0]}" != "$0" ] || printf 'export FLEXKEEP_AMQP_PEER=%q\n' "$FLEXKEEP_AMQP_PEER"
export FLEXKEEP_AZURITE=${FLEXKEEP_AZURITE:-$FLEXKEEP_TOOLS/azurite/blob}
[ "${BASH_SOURCE[0]}" != "$0" ] || printf 'export FLEXKEEP_AZURITE=%q\n' "$FLEXKEEP_AZURITE"
unset flexkeep_peer flexkeep_major flexkeep_name flexkeep_bin
