"""Carries SOURCE to PLACE without writing into any file there: in an attribute of one, or in what 512 links lead to."""

import os
import sys

KIND, SOURCE, PLACE = sys.argv[1:4]
LINKS, LONGEST = 512, 4095

with open(SOURCE, "rb", buffering=0) as source:
    if KIND == "attributes":
        file = os.open(PLACE + "/w", os.O_CREAT | os.O_WRONLY, 0o600)
        while chunk := source.read(3000):
            os.setxattr(file, "user.weighbridge", chunk)
    else:
        for number in range(LINKS):
            os.symlink(source.read((LONGEST + 1) // 2).hex()[:LONGEST], "%s/link%d" % (PLACE, number))
