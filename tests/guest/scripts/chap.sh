# CHAP, one-way and mutual, with each hash that open-iscsi knows. Part of scene "disk": nothing is logged in.

# needs_chap: sets it up at the box for this guest, once.
needs_chap() {
    can=$(ask can-chap)
    [ "$can" = yes ] || not_offered "the box has no CHAP"
    if [ ! -e /run/chap ]; then
        ask chap "$INITIATOR" guest-user guest-secret-123 box-user box-secret-45678
        touch /run/chap
    fi
    iscsiadm -m node -T "$IQN" -p "10.0.2.2:$PORT1" -o new >/dev/null
    set_node auth.authmethod CHAP
    set_node auth.username guest-user
    set_node auth.password guest-secret-123
}

set_node() {
    iscsiadm -m node -T "$IQN" -p "10.0.2.2:$PORT1" -o update -n "node.session.$1" -v "$2"
}

try_login() {
    iscsiadm -m node -T "$IQN" -p "10.0.2.2:$PORT1" --login
}

# iscsiadm's status for a login that was refused for want of a proof.
REFUSED=24

case_chap_refuses() {
    needs_chap
    set_node auth.password another-secret-9
    expect "$REFUSED" "a wrong secret" try_login
    set_node auth.authmethod None
    expect "$REFUSED" "no secret" try_login
    [ -z "$(disks)" ] || die "there is a disk"
}

case_chap_hashes() {
    needs_chap
    for hash in MD5 SHA1 SHA256 SHA3-256; do
        set_node auth.chap_algs "$hash"
        try_login || die "$hash is refused"
        wait_disks 1
        logout "$PORT1"
    done
    set_node auth.chap_algs SHA3-256,SHA256,SHA1,MD5
    tell "MD5, SHA1, SHA-256, SHA3-256"
}

case_chap_mutual() {
    needs_chap
    set_node auth.username_in box-user
    set_node auth.password_in box-secret-45678
    try_login
    wait_disks 1
    logout "$PORT1"
    set_node auth.password_in not-the-boxs-one
    got=0
    try_login || got=$?
    [ "$got" != 0 ] || die "a box that proves nothing is believed"
}

# Who refuses a login closes its connection, and the kernel says so.
run chap_refuses 'conn error'
run chap_hashes
run chap_mutual 'conn error'
