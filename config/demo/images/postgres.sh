#!/bin/sh
# Starts PostgreSQL 15 in its volume; makes the cluster when the volume is empty.
# Root hands the volume to the user `postgres` and becomes it.
set -eu
PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
data="$FLOCKER_VOLUME/cluster"
# An empty cluster, where the image brings one along.
template=/usr/lib/flocker/cluster

if [ "$(id -u)" = 0 ]; then
    chown postgres:postgres "$FLOCKER_VOLUME"
    exec /usr/bin/setpriv --reuid=postgres --regid=postgres --clear-groups /bin/sh "$0"
fi

if [ ! -s "$data/PG_VERSION" ]; then
    # Small WAL files, since directory storage sends whole files that have changed.
    # Made aside and renamed when it is whole: a start that was cut off leaves no half.
    rm -rf "$data.new"
    if [ -d "$template" ]; then
        cp -r "$template" "$data.new"
    else
        initdb --pgdata="$data.new" --username=postgres --auth=trust --encoding=UTF8 \
            --locale=C --wal-segsize=1 --no-sync
    fi
    chmod 0700 "$data.new"
    # Clients come through the edges, from addresses of the cluster's own network.
    echo "host all all samenet trust" >> "$data.new/pg_hba.conf"
    sync
    mv "$data.new" "$data"
fi

# Recycled and zero-filled WAL files save nothing on a copy-on-write file system.
exec postgres -D "$data" \
    -c listen_addresses="$FLOCKER_ADDRESS" -c port=5433 -c unix_socket_directories= \
    -c shared_buffers=32MB -c wal_recycle=off -c wal_init_zero=off
