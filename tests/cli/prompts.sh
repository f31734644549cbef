kvsweep prompts --task passkey --set passkey.lengths=3 --set passkey.depths=2 --set passkey.iterations=1 --set passkey.digits=7
kvsweep prompts --task passkey --set passkey.lengths=3 --set passkey.depths=2 --set passkey.iterations=1 \
    --model "$TESTS/fixtures/tiny" | head -1 | cut -c 1-600
kvsweep list templates | sed -n 5,9p
