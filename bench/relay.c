/*
 * A relay of the classic design, to be measured against: one packet per system
 * call, poll(2) on a TUN device and a UDP socket with the buffers that the
 * system gives, and a list of routes that is searched for every packet.
 *
 *   relay DEVICE LISTEN-ADDRESS PORT NETWORK/LENGTH=REMOTE-ADDRESS ...
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <netinet/ip.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

struct route {
	in_addr_t network, mask;
	struct sockaddr_in hop;
};

static struct route *routes;
static int route_count;
static char packet[65536];

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int open_tun(const char *name)
{
	struct ifreq request = { 0 };
	int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);

	strncpy(request.ifr_name, name, IFNAMSIZ - 1);
	request.ifr_flags = IFF_TUN | IFF_NO_PI;
	if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0)
		fail("tun");
	return fd;
}

static int open_socket(const char *address, int port)
{
	struct sockaddr_in name = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	inet_pton(AF_INET, address, &name.sin_addr);
	if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof(name)) < 0)
		fail("socket");
	return fd;
}

static const struct sockaddr_in *find_hop(in_addr_t destination)
{
	for (int i = 0; i < route_count; i++)
		if ((destination & routes[i].mask) == routes[i].network)
			return &routes[i].hop;
	return NULL;
}

static int from_tun(int tun, int sock)
{
	ssize_t length = read(tun, packet, sizeof(packet));
	const struct sockaddr_in *hop;

	if (length < (ssize_t)sizeof(struct iphdr))
		return 0;
	hop = find_hop(((struct iphdr *)packet)->daddr);
	if (hop)
		sendto(sock, packet, length, 0, (struct sockaddr *)hop, sizeof(*hop));
	return 1;
}

static int from_socket(int tun, int sock)
{
	ssize_t length = recv(sock, packet, sizeof(packet), 0);

	if (length < (ssize_t)sizeof(struct iphdr))
		return 0;
	return write(tun, packet, length) == length;
}

int main(int argc, char **argv)
{
	if (argc < 5)
		return 2;
	int tun = open_tun(argv[1]);
	int port = atoi(argv[3]);
	int sock = open_socket(argv[2], port);

	route_count = argc - 4;
	routes = calloc(route_count, sizeof(*routes));
	for (int i = 0; i < route_count; i++) {
		char network[32], hop[32];
		int length;

		if (sscanf(argv[4 + i], "%31[^/]/%d=%31s", network, &length, hop) != 3)
			return 2;
		routes[i].mask = htonl(length ? ~0u << (32 - length) : 0);
		inet_pton(AF_INET, network, &routes[i].network);
		routes[i].hop = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port) };
		inet_pton(AF_INET, hop, &routes[i].hop.sin_addr);
	}
	struct pollfd fds[2] = { { .fd = tun, .events = POLLIN }, { .fd = sock, .events = POLLIN } };
	puts("ready");
	fflush(stdout);
	for (;;) {
		poll(fds, 2, -1);
		int work;
		do {
			work = 0;
			if (fds[0].revents)
				work |= from_tun(tun, sock);
			if (fds[1].revents)
				work |= from_socket(tun, sock);
		} while (work);
	}
}
