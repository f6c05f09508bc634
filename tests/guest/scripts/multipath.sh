# Scene "multipath": two portals of one box; one of them is lost in both ways while fio writes.

map=/dev/mapper/mpatha

case_map() {
    mkdir -p /etc/multipath
    cat >/etc/multipath.conf <<END
defaults {
    user_friendly_names yes
    find_multipaths no
    polling_interval 2
}
blacklist {
    devnode "^(vd|md|loop)"
}
devices {
    device {
        vendor "REPRISE"
        product ".*"
        path_grouping_policy multibus
        no_path_retry 30
    }
}
END
    multipathd
    login "$PORT1"
    login "$PORT2"
    wait_disks 2
    until_true 30 "the map is there" test -b "$map"
    until_true 30 "both paths are active" paths 2
    multipath -ll
    tell "$(multipath -ll | grep -E 'policy=' | head -n 1)"
}

# paths COUNT: so many are active.
paths() {
    [ "$(multipathd show paths raw format '%t %T' | grep -c 'active ready')" = "$1" ]
}

case_file_system() {
    mkfs.ext4 -q -F "$map"
    mount -t ext4 "$map" /mnt
}

# lose HOW: fio writes 8 MiB/s while the second path is lost, and goes on without it.
lose() {
    verify_write /mnt/verify 96m --rate=8m &
    writer=$!
    sleep 3
    ask line "$1"
    until_true 60 "the path is seen as lost" paths 1
    wait "$writer" || die "fio has failed"
    verify_read /mnt/verify 96m
    ask line whole
    until_true 90 "the path is back" paths 2
    rm /mnt/verify
}

case_path_closed() {
    lose closed
}

case_path_silent() {
    lose silent
}

case_fsck() {
    umount /mnt
    e2fsck -fn "$map"
}

case_take_down() {
    multipath -f mpatha || multipathd del map mpatha
    logout "$PORT1"
    logout "$PORT2"
}

lost='conn error|detected conn|ping timeout|timed out|session recovery|rejecting I/O|offline|Failing path|I/O error, dev sd|FAILED Result|[Aa]bort'
run map
run file_system
run path_closed "$lost"
run path_silent "$lost"
run fsck
run take_down
