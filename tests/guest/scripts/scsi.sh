# SCSI commands through sg3_utils. Part of scene "disk": $device is logged in and holds nothing, /run/opcodes lists what
# the target says it knows. A command on that list has to work; one that is not on it is reported as not offered.

# offered OPCODE [ACTION] NAME: both in hexadecimal, as sg_opcodes prints them.
offered() {
    [ "$(grep -c -E '^ *[0-9a-f]{2}' /run/opcodes)" -ge 20 ] || die "there is no list of commands"
    if [ $# = 3 ]; then
        awk -v op="$1" -v sa="$2" '{ gsub(",", " ") } tolower($1) == op && tolower($2) == sa { f = 1 } END { exit !f }' \
            /run/opcodes || not_offered "$3 is not listed"
    else
        awk -v op="$1" '{ gsub(",", " ") } tolower($1) == op { f = 1 } END { exit !f }' \
            /run/opcodes || not_offered "$2 is not listed"
    fi
}

# blocks NUMBER COUNT: so many blocks of a pattern.
blocks() {
    pattern "$1" "$((($2 + 1) / 2))" | head -c "$(($2 * 512))"
}

# put LBA FILE and get LBA COUNT: through the block layer, past the page cache.
put() {
    dd if="$2" of="$device" bs=512 seek="$1" oflag=direct conv=notrunc status=none
}

get() {
    dd if="$device" bs=512 skip="$1" count="$2" iflag=direct status=none
}

same() {
    cmp "$1" "$2" || die "$3"
}

# Exit statuses of sg3_utils.
SG_ILLEGAL=5 SG_CONFLICT=24 SG_MISCOMPARE=14

case_inquiry() {
    sg_inq "$device" | tee /run/inquiry
    grep -q 'Vendor identification: REPRISE' /run/inquiry || die "the vendor is missing"
    sg_inq --only "$device"
    sg_turs "$device"
    tell "$(sed -n 's/.*Product revision level: //p' /run/inquiry)"
}

case_vpd() {
    # Four bytes of header, then the numbers of the pages.
    sg_vpd --page=0 -HHH "$device" >/run/pages
    pages=$(tr -s ' \n' '\n\n' </run/pages | grep -E '^[0-9a-f]{2}$' | tail -n +5)
    [ -n "$pages" ] || die "no pages"
    for page in $pages; do
        sg_vpd --page="0x$page" "$device"
    done
    sg_vpd --page=di "$device" | grep -q 'NAA' || die "no NAA name"
    expect "$SG_ILLEGAL" "a page that is not there" sg_vpd --force --page=0xcf "$device"
    tell "pages" $pages
}

case_capacity() {
    sg_readcap "$device"
    sg_readcap --long "$device"
    bytes=$(sg_readcap --brief --long "$device" | awk '{ print $1 }')
    [ $((bytes * 512)) = "$(blockdev --getsize64 "$device")" ] || die "the kernel has another size"
}

case_luns() {
    sg_luns "$device" | tee /run/luns
    grep -q '1 lun entry' /run/luns || die "not one LUN"
    sg_luns --select=2 "$device"
}

case_opcodes() {
    cat /run/opcodes
    [ "$(grep -c -E '^ *[0-9a-f]{2}' /run/opcodes)" -ge 20 ] || die "the list is too short"
    sg_opcodes -n --opcode=0x28 --rctd "$device"
    sg_opcodes -n --opcode=0x9e,0x10 "$device"
    tell "$(grep -c -E '^ *[0-9a-f]{2}' /run/opcodes) commands"
}

case_modes() {
    offered 1a "MODE SENSE(6)"
    sg_modes --all "$device"
    sg_modes --six --all "$device"
    [ "$(cat "/sys/block/${device#/dev/}/device/scsi_disk/"*/cache_type)" != "" ] || die "no cache type"
    tell "$(cat "/sys/block/${device#/dev/}/device/scsi_disk/"*/cache_type)"
}

case_request_sense() {
    offered 03 "REQUEST SENSE"
    sg_requests "$device"
}

case_logs() {
    offered 4d "LOG SENSE"
    sg_logs --list "$device"
    sg_logs --all "$device"
}

case_port_groups() {
    offered a3 a "REPORT TARGET PORT GROUPS"
    sg_rtpg --decode "$device" | tee /run/groups
    grep -q 'active/optimized' /run/groups || die "the port group is not active/optimized"
}

case_timestamp() {
    offered a3 f "REPORT TIMESTAMP"
    sg_timestamp "$device"
}

case_task_functions() {
    offered a3 d "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS"
    sg_opcodes -n --tmf "$device"
}

case_identifier() {
    offered a3 5 "REPORT IDENTIFYING INFORMATION"
    sg_ident "$device"
}

case_lba_status() {
    offered 9e 12 "GET LBA STATUS"
    sg_get_lba_status --lba=0 "$device"
    last=$(($(blockdev --getsz "$device") - 1))
    sg_get_lba_status --lba="$last" "$device"
    expect "$SG_ILLEGAL" "beyond the end" sg_get_lba_status --lba=$((last + 1)) "$device"
}

case_sync_cache() {
    offered 35 "SYNCHRONIZE CACHE"
    sg_sync "$device"
    sg_sync --16 "$device"
}

case_verify() {
    offered 2f "VERIFY(10)"
    blocks 3 8 >/run/data
    put 4096 /run/data
    sg_verify --lba=4096 --count=8 "$device"
    sg_verify --lba=4096 --ebytchk=1 --count=8 --ndo=4096 --in=/run/data "$device"
    blocks 4 8 >/run/other
    expect "$SG_MISCOMPARE" "other bytes" sg_verify --lba=4096 --ebytchk=1 --count=8 --ndo=4096 --in=/run/other "$device"
}

case_write_verify() {
    offered 8e "WRITE AND VERIFY(16)"
    blocks 5 16 >/run/data
    sg_write_verify --16 --lba=4200 --num=16 --ilen=8192 --in=/run/data "$device"
    get 4200 16 | cmp - /run/data || die "other bytes are there"
}

case_write_same() {
    offered 93 "WRITE SAME(16)"
    blocks 6 1 >/run/one
    sg_write_same --16 --lba=5000 --num=64 --in=/run/one --xferlen=512 "$device"
    for block in 0 31 63; do
        get $((5000 + block)) 1 | cmp - /run/one || die "block $block has other bytes"
    done
    sg_write_same --10 --lba=5000 --num=8 --in=/run/one --xferlen=512 "$device"
}

case_compare_and_write() {
    offered 89 "COMPARE AND WRITE"
    blocks 7 1 >/run/old
    blocks 8 1 >/run/new
    put 6000 /run/old
    cat /run/old /run/new >/run/both
    sg_compare_and_write --in=/run/both --lba=6000 --num=1 --xferlen=1024 "$device"
    get 6000 1 | cmp - /run/new || die "the block was not written"
    expect "$SG_MISCOMPARE" "a second time" sg_compare_and_write --in=/run/both --lba=6000 --num=1 --xferlen=1024 "$device"
    get 6000 1 | cmp - /run/new || die "a miscompare has written"
}

case_unmap() {
    offered 42 "UNMAP"
    blocks 9 16 >/run/data
    put 8192 /run/data
    sg_unmap --lba=8192 --num=8 --force "$device"
    get 8192 8 | cmp - /dev/zero 2>&1 | grep -q 'EOF on -' || die "unmapped blocks are not zero"
    tail -c 4096 /run/data >/run/rest
    get 8200 8 | cmp - /run/rest || die "more than was said is unmapped"
}

case_orwrite() {
    offered 8b "ORWRITE(16)"
    head -c 512 /dev/zero | tr '\0' '\125' >/run/a
    head -c 512 /dev/zero | tr '\0' '\252' >/run/b
    head -c 512 /dev/zero | tr '\0' '\377' >/run/c
    put 6100 /run/a
    sg_write_x --or --16 --lba=6100 --num=1 --in=/run/b "$device"
    get 6100 1 | cmp - /run/c || die "the bits are not joined"
}

case_write_atomic() {
    offered 9c "WRITE ATOMIC(16)"
    blocks 10 8 >/run/data
    sg_write_x --atomic=0 --16 --lba=6200 --num=8 --in=/run/data "$device"
    get 6200 8 | cmp - /run/data || die "other bytes are there"
}

case_extended_copy() {
    offered 83 "EXTENDED COPY"
    offered 84 "RECEIVE COPY RESULTS"
    sg_copy_results --params "$device"
    blocks 11 256 >/run/data
    put 10000 /run/data
    sg_xcopy if="$device" skip=10000 of="$device" seek=20000 bs=512 count=256
    get 20000 256 | cmp - /run/data || die "the copy has other bytes"
}

case_start_stop() {
    offered 1b "START STOP UNIT"
    sg_start --start "$device"
}

case_prevent() {
    offered 1e "PREVENT ALLOW MEDIUM REMOVAL"
    sg_prevent --prevent=1 "$device"
    sg_prevent --allow "$device"
}

case_lun_reset() {
    sg_reset --device "$device"
    sg_turs "$device" || sg_turs "$device"
    get 0 8 >/dev/null
}

# A second initiator: another name, so another I_T nexus. Prints its disk.
second_nexus() {
    if [ ! -e /run/second ]; then
        before=$(disks)
        iscsiadm -m iface -I second -o new >/dev/null
        iscsiadm -m iface -I second -o update -n iface.initiatorname -v "$INITIATOR-second" >/dev/null
        iscsiadm -m node -T "$IQN" -p "10.0.2.2:$PORT1" -I second -o new >/dev/null
        iscsiadm -m node -T "$IQN" -p "10.0.2.2:$PORT1" -I second --login >/dev/null
        wait_disks 2 >/dev/null
        for disk in $(disks); do
            [ "$disk" = "$before" ] || echo "/dev/$disk" >/run/second
        done
    fi
    cat /run/second
}

pr_in() {
    sg_persist --no-inquiry --in "$@"
}

pr_out() {
    sg_persist --no-inquiry --out "$@"
}

# One block written through SG_IO, so that the kernel does not try again.
write_one() {
    sg_raw --send=512 --infile=/dev/zero "$1" 2a 00 00 00 2e e0 00 00 01 00
}

# Forgets all keys, whoever has registered them: an earlier case may have failed half-way.
no_keys() {
    sg_turs "$device" || true
    pr_out --register-ignore --param-sark=0xff "$device"
    pr_out --clear --param-rk=0xff "$device"
}

case_reservation() {
    offered 5e 0 "PERSISTENT RESERVE IN"
    offered 5f 0 "PERSISTENT RESERVE OUT"
    second=$(second_nexus)
    sg_turs "$second" || true
    no_keys
    pr_in --report-capabilities "$device"
    pr_out --register --param-sark=0xa1 "$device"
    pr_out --register --param-sark=0xb2 "$second"
    pr_in --read-keys "$device" | tee /run/keys
    grep -q 0xa1 /run/keys && grep -q 0xb2 /run/keys || die "the keys are not there"
    # Type 1, Write Exclusive.
    pr_out --reserve --param-rk=0xa1 --prout-type=1 "$device"
    pr_in --read-reservation "$second" | tee /run/reservation
    grep -q 'Write Exclusive' /run/reservation || die "no reservation is reported"
    pr_in --read-full-status "$second" | tee /run/full
    sg_vpd --page=di "$device" >/run/ports
    port=$(sed -n 's/.*Relative target port: //p' /run/ports | head -n 1)
    [ "$(grep -c "Relative port address: $port\$" /run/full)" = 2 ] || die "the full status names another port than page 83h, $port"
    grep -q "$INITIATOR-second" /run/full || die "the full status does not name the second initiator"
    write_one "$device"
    expect "$SG_CONFLICT" "a write by another" write_one "$second"
    expect "$SG_CONFLICT" "a second reservation" pr_out --reserve --param-rk=0xb2 --prout-type=1 "$second"
    # The second takes over.
    pr_out --preempt --param-rk=0xb2 --param-sark=0xa1 --prout-type=1 "$second"
    sg_turs "$device" || true
    pr_in --read-keys "$second" | tee /run/keys
    ! grep -q 0xa1 /run/keys || die "the key that was preempted is still there"
    write_one "$second"
    expect "$SG_CONFLICT" "a write by the one that was preempted" write_one "$device"
    pr_out --release --param-rk=0xb2 --prout-type=1 "$second"
    sg_turs "$device" || true
    write_one "$device"
    # Type 5, Write Exclusive - Registrants Only: every registrant writes.
    pr_out --register --param-sark=0xa3 "$device"
    pr_out --reserve --param-rk=0xa3 --prout-type=5 "$device"
    write_one "$second"
    pr_out --clear --param-rk=0xb2 "$second"
    sg_turs "$device" || true
    pr_in --read-keys "$device" | tee /run/keys
    grep -q 'NO registered reservation keys\|no registered\|0 registered' /run/keys || die "keys are left"
}

case_reservation_kept() {
    offered 5e 0 "PERSISTENT RESERVE IN"
    offered 5f 0 "PERSISTENT RESERVE OUT"
    no_keys
    pr_out --register --param-sark=0xc4 --param-aptpl "$device"
    pr_out --reserve --param-rk=0xc4 --prout-type=1 "$device"
    ask kill-source
    ask start-source
    until_true 60 "the disk answers again" sg_turs "$device"
    pr_in --read-keys "$device" | tee /run/keys
    grep -q 0xc4 /run/keys || die "the key has not survived the restart"
    pr_in --read-reservation "$device" | tee /run/reservation
    grep -q 'Write Exclusive' /run/reservation || die "the reservation has not survived the restart"
    pr_out --clear --param-rk=0xc4 "$device"
}

case_reserve_6() {
    offered 16 "RESERVE(6)"
    offered 17 "RELEASE(6)"
    second=$(second_nexus)
    sg_turs "$second" || true
    sg_turs "$device" || true
    if grep -q -E '^ *5f  *4 ' /run/opcodes; then no_keys; fi
    sg_raw "$device" 16 00 00 00 00 00
    expect "$SG_CONFLICT" "a write by another" write_one "$second"
    write_one "$device"
    sg_raw "$device" 17 00 00 00 00 00
    write_one "$second"
}

case_second_logout() {
    [ -e /run/second ] || second_nexus
    iscsiadm -m node -T "$IQN" -p "10.0.2.2:$PORT1" -I second --logout
    iscsiadm -m node -T "$IQN" -p "10.0.2.2:$PORT1" -I second -o delete
    wait_disks 1
}

case_sanitize() {
    offered 48 2 "SANITIZE, BLOCK ERASE"
    sg_sanitize --block --quick --wait "$device"
    get 10000 8 | cmp - /dev/zero 2>&1 | grep -q 'EOF on -' || die "bytes are left"
}

for name in inquiry vpd capacity luns opcodes modes request_sense logs port_groups timestamp task_functions identifier \
    lba_status sync_cache verify write_verify write_same compare_and_write unmap orwrite write_atomic extended_copy \
    start_stop prevent; do
    run "$name"
done
run lun_reset 'reset'
run reservation
if [ -z "$SHORT" ]; then
    run reservation_kept 'conn error|detected conn|ping timeout'
fi
run reserve_6
# A reservation that a failed case has left would stop other sessions' writes in this scene and in later ones.
if grep -q -E '^ *5f  *4 ' /run/opcodes; then
    no_keys >/dev/null 2>&1
fi
run second_logout
run sanitize
