printf 'The pass key\n\n 12 é\n' | kvsweep tokenize "$TESTS/fixtures/tiny"
printf 'The pass key\n\n 12 é\n' | kvsweep tokenize "$TESTS/fixtures/tiny" | kvsweep tokenize "$TESTS/fixtures/tiny" --decode
printf '"two\\nlines"\n' | kvsweep tokenize "$TESTS/fixtures/tiny" --json | kvsweep tokenize "$TESTS/fixtures/tiny" --json --decode
printf '[1, 99999]\n' | kvsweep tokenize "$TESTS/fixtures/tiny" --decode
# NUL is a character like any other
printf '"a\\u0000 b\\u0000"\n' | kvsweep tokenize "$TESTS/fixtures/tiny" --json | kvsweep tokenize "$TESTS/fixtures/tiny" --decode --json
printf '"a\\u0000 b\\u0000"\n' | kvsweep tokenize "$TESTS/fixtures/tiny" --json | kvsweep tokenize "$TESTS/fixtures/tiny" --decode | tr '\0' 0
