printf 'The pass key\n\n 12 é\n' | kvsweep tokenize "$TESTS/fixtures/tiny"
printf 'The pass key\n\n 12 é\n' | kvsweep tokenize "$TESTS/fixtures/tiny" | kvsweep tokenize "$TESTS/fixtures/tiny" --decode
printf '"two\\nlines"\n' | kvsweep tokenize "$TESTS/fixtures/tiny" --json | kvsweep tokenize "$TESTS/fixtures/tiny" --json --decode
printf '[1, 99999]\n' | kvsweep tokenize "$TESTS/fixtures/tiny" --decode
