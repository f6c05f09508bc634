# Scene "disk": one session, both digests, no multipath: login, SCSI commands, file systems, CHAP.

device=/dev/none

case_discovery() {
    iscsiadm -m discovery -t sendtargets -p "10.0.2.2:$PORT1" | tee /run/found
    grep -q " $IQN\$" /run/found || die "the target is not among those found"
    # What was found is the host's own address; the sessions are made by hand.
    iscsiadm -m node -o delete
}

case_login() {
    login "$PORT1"
    wait_disks 1
    iscsiadm -m session -P 3
    tell "$(iscsiadm -m session -P 3 | grep -E 'HeaderDigest|DataDigest|ImmediateData|MaxBurst' | tr -d '\t' | tr '\n' ' ')"
    [ "$HEADER_DIGEST" != CRC32C ] || iscsiadm -m session -P 3 | grep -q 'HeaderDigest: CRC32C' || die "no header digest"
    [ "$DATA_DIGEST" != CRC32C ] || iscsiadm -m session -P 3 | grep -q 'DataDigest: CRC32C' || die "no data digest"
}

# A file system with fio's verified writes, unmounted and mounted again in between.
file_system() {
    mount -t "$1" "$device" /mnt
    verify_write /mnt/verify "$FIO_SIZE"
    umount /mnt
    mount -t "$1" "$device" /mnt
    verify_read /mnt/verify "$FIO_SIZE"
    umount /mnt
    echo 3 >/proc/sys/vm/drop_caches
}

case_ext4() {
    ! grep -q ' /mnt ' /proc/mounts || umount /mnt
    mkfs.ext4 -q -F "$device"
    file_system ext4
    e2fsck -fn "$device"
    tell "$FIO_SIZE of verified writes, fsck clean"
}

case_xfs() {
    ! grep -q ' /mnt ' /proc/mounts || umount /mnt
    mkfs.xfs -q -f "$device"
    file_system xfs
    xfs_repair -n "$device"
    tell "$FIO_SIZE of verified writes, xfs_repair clean"
}

# Discarding: mkfs does it, fstrim again after a file was removed.
case_fstrim() {
    [ "$(cat "/sys/block/${device#/dev/}/queue/discard_max_bytes")" != 0 ] || not_offered "the volume is not thin"
    mkfs.ext4 -q -F "$device"
    mount -t ext4 "$device" /mnt
    verify_write /mnt/keep 8m
    pattern 1 8192 >/mnt/gone
    sync
    rm /mnt/gone
    fstrim -v /mnt
    umount /mnt
    mount -t ext4 "$device" /mnt
    verify_read /mnt/keep 8m
    umount /mnt
    e2fsck -fn "$device"
}

# Many commands at once, in sizes from one sector to more than a burst.
case_mixed() {
    for size in 512 4k 192k 1m 2m; do
        fio --name="w$size" --filename="$device" --offset=64m --size=24m --io_size=12m --bs="$size" --rw=randwrite \
            --direct=1 --ioengine=libaio --iodepth=32 --verify=crc32c --do_verify=1 --verify_fatal=1 --minimal \
            --number_ios=400 --output=/run/fio
    done
}

case_logout() {
    logout "$PORT1"
    until_true 20 "the disk is gone" test -z "$(disks)"
}

run discovery
run login
device=/dev/$(disks | head -n 1)
# Without a disk there is nothing to test; the login has failed.
[ -b "$device" ] || finish
sg_opcodes -n "$device" >/run/opcodes 2>&1 || sg_opcodes "$device" >/run/opcodes 2>&1
. /job/scsi.sh
if [ -z "$SHORT" ]; then
    run mixed
fi
run ext4
run xfs
if [ -z "$SHORT" ]; then
    run fstrim
fi
run logout
. /job/chap.sh
