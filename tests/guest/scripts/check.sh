# Scene "crash", second boot: what was reported as durable must be there.

case_recover() {
    login "$PORT1"
    device=/dev/$(wait_disks 1)
    mount -t "$FS" "$device" /mnt
    dmesg | grep -E 'recovery|Ending (clean mount|recovery)|recovered' | tail -n 2
}

case_kept() {
    while read -r number kib; do
        [ -n "$number" ] || continue
        pattern "$number" "$kib" | cmp - "/mnt/kept.$number" || die "file $number is not as it was when it was flushed"
    done </job/kept
    tell "$(grep -c . /job/kept) flushed files"
}

case_fsck() {
    device=$(awk '$2 == "/mnt" { print $1 }' /proc/mounts)
    umount /mnt
    case $FS in
        ext4) e2fsck -fn "$device" ;;
        xfs) xfs_repair -n "$device" ;;
    esac
}

run recover
run kept
run fsck
