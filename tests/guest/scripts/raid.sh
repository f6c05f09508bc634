# Scene "raid": a RAID 1 of a disk of the guest's own and, write-mostly, the disk of the target. The target dies and comes back.

case_make() {
    login "$PORT1"
    device=/dev/$(wait_disks 1)
    echo "$device" >/run/device
    # Copies at full speed, although fio writes; a piece of the disk is enough.
    echo 500000 >/proc/sys/dev/raid/speed_limit_min
    # What an earlier scene has left would be found.
    dd if=/dev/zero of="$device" bs=1M count=8 oflag=direct status=none
    mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --bitmap=internal --bitmap-chunk=1M --metadata=1.2 --size=160M \
        /dev/vdb --write-mostly "$device"
    until_true 240 "the first copy is done" in_sync
    mkfs.ext4 -q -F /dev/md0
    mount -t ext4 /dev/md0 /mnt
    cat /proc/mdstat
}

in_sync() {
    grep -q '\[UU\]' /proc/mdstat && ! grep -qE 'resync|recovery' /proc/mdstat
}

degraded() {
    grep -qE '\[U_\]|\[_U\]' /proc/mdstat
}

case_target_dies() {
    verify_write /mnt/during 48m --rate=3m &
    writer=$!
    sleep 3
    ask kill-source
    until_true 90 "the RAID goes on without the target" degraded
    wait "$writer" || die "fio has failed"
    verify_read /mnt/during 48m
    pattern 1 2048 >/mnt/without
    sync
    cat /proc/mdstat
}

# written DEVICE: MiB since the device is there.
written() {
    awk '{ print int($7 / 2048) }' "/sys/block/${1#/dev/}/stat"
}

case_target_returns() {
    device=$(cat /run/device)
    ask start-source
    until_true 90 "the disk answers again" dd if="$device" of=/dev/null bs=4096 count=1 iflag=direct
    mdadm /dev/md0 --remove "$device" || mdadm /dev/md0 --remove detached
    before=$(written "$device")
    mdadm /dev/md0 --re-add --write-mostly "$device"
    until_true 120 "the RAID is whole" in_sync
    copied=$(($(written "$device") - before))
    cat /proc/mdstat
    [ "$copied" -lt 150 ] || die "$copied MiB were written: that is a copy of everything"
    tell "$copied MiB were copied"
}

case_equal() {
    umount /mnt
    echo check >/sys/block/md0/md/sync_action
    until_true 240 "the comparison is done" grep -q idle /sys/block/md0/md/sync_action
    mismatches=$(cat /sys/block/md0/md/mismatch_cnt)
    [ "$mismatches" = 0 ] || die "$mismatches sectors differ"
}

# The target's half alone.
case_target_alone() {
    device=$(cat /run/device)
    mdadm --stop /dev/md0
    mdadm --assemble /dev/md0 --run "$device"
    e2fsck -fn /dev/md0
    mount -t ext4 /dev/md0 /mnt
    verify_read /mnt/during 48m
    pattern 1 2048 | cmp - /mnt/without || die "what was written without the target has not come to it"
    umount /mnt
    mdadm --stop /dev/md0
    mdadm --zero-superblock "$device"
    logout "$PORT1"
}

run make
run target_dies 'conn error|detected conn|ping timeout|timed out|session recovery|rejecting I/O|offline|I/O error, dev sd|FAILED Result|super_written|Disk failure|[Aa]bort|md/raid1.*fail'
run target_returns 'conn error|detected conn|rejecting I/O'
run equal
run target_alone
