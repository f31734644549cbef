# one line and status 1 each
try() {
    echo "\$ kvsweep $*"
    kvsweep "$@"
    echo "[$?]"
}
try rnu x
try run
try run --outptu x
try run nothing.yaml
try plan quickstart
echo 'models: [tiny]' >a.yaml
try plan a.yaml
printf 'models:\n  - {id: tiny, path: %s/fixtures/tiny}\nmethods: [full]\ntasks: [passkey]\ntopk: 3\n' "$TESTS" >b.yaml
try run b.yaml
try run b.yaml --set topk=2
try status none.h5
try export none.h5
try fetch smollm3-135m
try fetch llama-3-8b-instruct
try list method
try score passkee x.jsonl
try prompts --task qasper
try prompts --task passkey --set passkey.digits=65
try prompts --task passkey --set passkey.unit=tokens
try tokenize nothing
echo x >not.h5
try status not.h5
