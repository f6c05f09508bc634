# Scene "grow": the volume grows under a mounted file system.

case_grow() {
    can=$(ask can-resize)
    [ "$can" = yes ] || not_offered "the binary has no command to resize a volume"
    login "$PORT1"
    device=/dev/$(wait_disks 1)
    mkfs.ext4 -q -F "$device"
    mount -t ext4 "$device" /mnt
    verify_write /mnt/verify 16m
    before=$(blockdev --getsize64 "$device")
    ask resize "$((before / 1048576 + 128))M"
    # The next command brings the unit attention; the kernel reads the size again when it is told to.
    sg_turs "$device" || true
    iscsiadm -m session --rescan
    [ "$(blockdev --getsize64 "$device")" = $((before + 134217728)) ] || die "the kernel sees $(blockdev --getsize64 "$device")"
    resize2fs "$device"
    verify_read /mnt/verify 16m
    verify_write /mnt/more 16m
    umount /mnt
    e2fsck -fn "$device"
    logout "$PORT1"
    tell "from $((before / 1048576)) MiB by 128 MiB"
}

run grow 'Capacity data has changed|capacity change'
