//! Java: a small program, which logs each accept.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};

use super::server::{LoggingServer, Server};
use crate::host;

const PROGRAM: &str = "
import java.net.*;
import java.nio.ByteBuffer;
import java.nio.channels.*;

public class Accepts {
  public static void main(String[] arguments) throws Exception {
    var unix = ServerSocketChannel.open(StandardProtocolFamily.UNIX);
    unix.bind(UnixDomainSocketAddress.of(arguments[1]));
    var tcp = ServerSocketChannel.open();
    tcp.bind(new InetSocketAddress(\"127.0.0.1\", Integer.parseInt(arguments[0])));
    new Thread(() -> serve(unix)).start();
    serve(tcp);
  }

  static void serve(ServerSocketChannel server) {
    while (true) {
      try (var client = server.accept()) {
        var from = client.getRemoteAddress();
        System.out.println(\"accepted \" + ProcessHandle.current().pid() + \" \" + (from instanceof InetSocketAddress inet ? inet.getPort() : \"unix\"));
        client.write(ByteBuffer.wrap(new byte[] {46}));
      } catch (java.io.IOException gone) {
        System.err.println(gone);
      }
    }
  }
}
";

pub(super) fn start(folder: &Path) -> Result<Server> {
    let (port, socket) = (host::free_port()?, folder.join("java.sock"));
    let source = folder.join("Accepts.java");
    std::fs::write(&source, PROGRAM).context("writing Accepts.java")?;
    let mut java = Command::new("java");
    java.arg(&source).arg(port.to_string()).arg(&socket);
    LoggingServer { name: "Java", executable: "java", port, socket, service: None }.start(java, folder)
}
