//! probe
fn main() {
    let offsets = acceptd::bpf::offsets::resolve("/sys/kernel/btf/vmlinux").unwrap();
    let mut p = match acceptd::bpf::load(&acceptd::bpf::Settings{ring_bytes:4<<20,record_self:true}, &offsets) { Ok(p)=>p, Err(acceptd::bpf::LoadError::Program{verifier_log,reason,hook})=>{ let l:Vec<_>=verifier_log.lines().collect(); println!("{hook} {reason}\n{}", l[l.len().saturating_sub(60)..].join("\n")); return }, Err(e)=>panic!("{e:?}") };
    println!("{}", std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l|l.starts_with("Rss")).collect::<Vec<_>>().join(" "));
    let l=std::net::TcpListener::bind("127.0.0.1:0").unwrap(); let c=std::net::TcpStream::connect(l.local_addr().unwrap()).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50)); let s=l.accept().unwrap();
    println!("{:?} {:?} {:?}", l, c, s);
    std::process::Command::new("python3").args(["/tmp/acc.py","10"]).status().unwrap();
    while let Some(i)=p.ring.next(){ use zerocopy::FromBytes; let x=acceptd_common::InetAccept::read_from_bytes(&i[..]).unwrap(); println!("{} {} {} {:x}", x.header.cpu, x.header.sequence, x.cookie, x.flags); }
    println!("{:?}", p.counters.read());
}
