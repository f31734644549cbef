# plans of today's models from their files in configs/models alone; layers with windows, layers left out
mkdir models
cp "$CONFIGS"/models/{qwen,llama-3.,mistral-7b-instruct-v0.}*.yaml models
ids=$(cd models && ls -- *.yaml | sed 's/\.yaml$//' | paste -sd,)
echo "models: [$ids]
methods: [full]
tasks: [{name: passkey, lengths: [64], depths: 1, iterations: 1}]" >today.yaml
kvsweep plan ./today.yaml | grep -v '^model'
echo "models: [{id: mistral-7b-instruct-v0.1, max_len: 4096}]
methods: [full, 'streaming:ratio=4', 'kivi:bits=2,skip_layers=0-1;31']
tasks: [{name: passkey, lengths: [64], depths: 1, iterations: 1}]" >window.yaml
kvsweep plan ./window.yaml | grep -v '^model '
kvsweep plan ./window.yaml --set models.0.max_len=32768
sed -i 's/ratio=4/ratio=4,window_layers=1/; s/, .kivi.*/]/' window.yaml
kvsweep plan ./window.yaml --set models.0.max_len=32768 | grep -v '^model '
kvsweep plan ./window.yaml --set 'methods=["kivi:skip_layers=32"]' --set models.0.max_len=4096
