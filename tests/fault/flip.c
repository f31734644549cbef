/* flip FILE BIT: changes one bit of a file. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    unsigned char byte;
    int fd = argc == 3 ? open(argv[1], O_RDWR) : -1;
    long long bit = argc == 3 ? atoll(argv[2]) : -1;
    if (fd < 0 || bit < 0 || pread(fd, &byte, 1, bit / 8) != 1) {
        fprintf(stderr, "flip FILE BIT\n");
        return 1;
    }
    byte = (unsigned char)(byte ^ 1 << bit % 8);
    return pwrite(fd, &byte, 1, bit / 8) == 1 ? 0 : 1;
}
