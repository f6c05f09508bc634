# Scene "home": the disk of a box as /dev/vdb. What is on its volumes, seen without the product.

case_pool() {
    for part in /sys/block/vdb/vdb*; do
        name=/dev/${part##*/}
        # XFS's magic number.
        [ "$(head -c 4 "$name")" != XFSB ] || pool=$name
    done
    [ -n "$pool" ] || die "no XFS on the disk"
    mkdir -p /run/pool
    mount -t xfs "$pool" /run/pool
    find /run/pool -name '*.home' -exec ls -ls {} +
}

# Which numbers are there, and whether they are those of one moment: the last is K, and before it every one up to K.
case_prefix() {
    home=$(find /run/pool -name 'count-*.home')
    dd if="$home" bs=512 count=64 2>/dev/null | tr '\0' '\n' | grep -n . >/dev/null || die "no number has come"
    sector=0
    : >/run/found_numbers
    while [ "$sector" -lt 64 ]; do
        dd if="$home" bs=512 skip="$sector" count=1 2>/dev/null | tr -d '\0' | sort -u >/run/lines
        [ "$(grep -c . /run/lines)" -le 1 ] || die "sector $sector holds parts of two numbers: $(tr '\n' ' ' </run/lines)"
        # Without its zeros: some programs would read them as octal.
        line=$(sed 's/^0*//' /run/lines)
        echo "$sector ${line:-0}" >>/run/found_numbers
        sector=$((sector + 1))
    done
    awk -v least="$LEAST" -v most="$MOST" '
        { is[$1] = $2 + 0; if ($2 + 0 > k) k = $2 + 0 }
        END {
            for (n = k > 64 ? k - 63 : 1; n <= k; n++) {
                s = n * 37 % 64
                if (is[s] != n) { print "number " n " is missing below " k ": sector " s " has " is[s]; exit 1 }
                wanted[s] = 1
            }
            for (s = 0; s < 64; s++) if (!wanted[s] && is[s]) { print "sector " s " has " is[s]; exit 1 }
            if (k < least) { print "only " k " numbers, not " least; exit 1 }
            if (k > most) { print k " numbers, " most " were written"; exit 1 }
            print "exactly the first " k " numbers"
        }' /run/found_numbers >/run/verdict || die "$(cat /run/verdict)"
    tell "$(cat /run/verdict)"
}

# The file system on the other volume, as after a power cut: its journal is replayed, then it must be clean.
case_fsck() {
    loop=$(losetup -f)
    losetup "$loop" "$(find /run/pool -name 'data-*.home')"
    mount -t ext4 "$loop" /mnt
    umount /mnt
    e2fsck -fn "$loop"
    losetup -d "$loop"
}

case_digest() {
    tell "$(cd /run/pool && find . -name '*.home' | sort | xargs sha256sum | awk '{ print $1 }' | sha256sum | cut -c 1-64)"
}

modprobe loop
# Before fsck: it writes.
run pool
[ -z "$DIGEST" ] || run digest
run prefix
run fsck
