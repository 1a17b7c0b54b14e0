import sys
import zipfile

with zipfile.ZipFile(sys.argv[2], "w", zipfile.ZIP_STORED) as wheel:
    wheel.writestr("tools/__init__.py", "")
    wheel.write(sys.argv[1], "tools/data.bin")
