// A Go server, whose listener uses Multipath TCP by default (since Go 1.24), as a test subject for acceptd.
//
// Without arguments, ten clients connect, every other one with Multipath TCP. For each accept it prints
// whether it is Multipath TCP, the client's address, and SO_COOKIE.
//
// golistener ADDRESS PATH serves on that TCP address and UNIX socket instead. For each accept it prints its
// process id and the client's port, or `unix`.
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// SO_COOKIE, include/uapi/asm-generic/socket.h
const soCookie = 57

func main() {
	if len(os.Args) == 3 {
		tcp, err := net.Listen("tcp", os.Args[1])
		check(err)
		unix, err := net.Listen("unix", os.Args[2])
		check(err)
		go serve(unix)
		serve(tcp)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for number := range 10 {
		var dialer net.Dialer
		dialer.SetMultipathTCP(number%2 == 0)
		client, err := dialer.Dial("tcp", listener.Addr().String())
		check(err)
		accepted, err := listener.Accept()
		check(err)
		multipath, err := accepted.(*net.TCPConn).MultipathTCP()
		check(err)
		fmt.Println(multipath, client.LocalAddr(), cookie(accepted.(*net.TCPConn)))
		defer client.Close()
		defer accepted.Close()
	}
}

func serve(listener net.Listener) {
	for {
		accepted, err := listener.Accept()
		check(err)
		client := "unix"
		if address, is := accepted.RemoteAddr().(*net.TCPAddr); is {
			client = fmt.Sprint(address.Port)
		}
		fmt.Println("accepted", os.Getpid(), client)
		// The client may have closed already.
		_, _ = accepted.Write([]byte("."))
		_ = accepted.Close()
	}
}

func cookie(connection *net.TCPConn) (value uint64) {
	raw, err := connection.SyscallConn()
	check(err)
	check(raw.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(value))
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.SOL_SOCKET, soCookie,
			uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			log.Fatalf("SO_COOKIE: %v", errno)
		}
	}))
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
