# Scene "crash", first boot: files are written and flushed, and each is reported, while fio loads the same file system. The
# host cuts the power at some moment; check.sh looks at what is there then.

case_writes() {
    login "$PORT1"
    device=/dev/$(wait_disks 1)
    case $FS in
        ext4) mkfs.ext4 -q -F "$device" ;;
        xfs) mkfs.xfs -q -f "$device" ;;
    esac
    mount -t "$FS" "$device" /mnt
    fio --name=load --filename=/mnt/load --size=64m --rw=randwrite --bs=16k --ioengine=libaio --iodepth=8 --fsync=16 \
        --time_based --runtime=600 --output=/run/fio >/dev/null 2>&1 3>&- &
    number=0
    while true; do
        number=$((number + 1))
        kib=$((4 + number % 13 * 9))
        pattern "$number" "$kib" >"/mnt/kept.$number"
        # coreutils' sync: fsync of the file and of the folder that names it.
        sync "/mnt/kept.$number" /mnt
        say kept "$number $kib"
    done
}

run writes
