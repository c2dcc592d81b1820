"""The receiving end of systemd's notifications: prints each message as a line of JSON. Node.js has no such sockets."""
import json, os, socket, sys

receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
receiver.bind(sys.argv[1])
print('"bound"', flush=True)
while True:
    message, fds, _, _ = socket.recv_fds(receiver, 65536, 8)
    # systemd-notify waits until its descriptor is closed here (BARRIER=1).
    for fd in fds:
        os.close(fd)
    print(json.dumps(message.decode().strip().split("\n")), flush=True)
