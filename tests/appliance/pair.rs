//! Two machines become a pair at their serial consoles, and a third one uses it while cables and power fail.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::{BROWSER_FEATURES, ports};

use super::cases::{Disk, MEMORY_MIB, SERVING_A, START, World};
use super::link::Link;
use super::person::Person;
use super::vm::{Bus, Firmware, Machine};
use crate::guest::{Errand, Host, INITIATOR, Image, Line, Relay, Tally, folder};
use crate::process::{cargo, run as run_command};

/// Size of a box's disk: what the image leaves of it becomes the pool.
const DISK_BYTES: u64 = 3 << 30;
const HOME: &str = "Number, then Enter (? help)";
const MENU: &str = "Number, then Enter (0 goes back)";
/// Longest time until a mirror is in order after a fault.
const ORDER: Duration = Duration::from_secs(300);
/// The status page is younger than this when it has been watched so long.
const LOOK: Duration = Duration::from_secs(6);
const WIPE_BEGINS: &str = "reset (wipe) begins";
/// Longest time of a reset, with the start that carries it out.
const WIPE: Duration = Duration::from_secs(600);
/// Longest time of a clean stop.
const STOP: Duration = Duration::from_secs(180);

/// One of the boxes.
struct Station {
    name: &'static str,
    /// 0 or 1: which end of the cable it has.
    end: usize,
    disk: Disk,
    firmware: Firmware,
    /// Ports of this machine's loopback that lead to its iSCSI portal and its web page.
    portal: u16,
    web: u16,
    person: Option<Person>,
}

impl Station {
    fn new(world: &World, name: &'static str, end: usize, firmware: Firmware) -> Result<Self> {
        let disk = world.flash(name)?;
        disk.file.set_len(DISK_BYTES)?;
        Ok(Self { name, end, disk, firmware, portal: ports::free()?.port(), web: ports::free()?.port(), person: None })
    }

    fn switch_on(&mut self, world: &World, link: &Link) -> Result<()> {
        let Self { end, portal, web, .. } = self;
        let mut more = vec![
            "-netdev".to_owned(),
            format!(
                "user,id=office,net=10.0.{}.0/24,hostfwd=tcp:127.0.0.1:{portal}-:3260,hostfwd=tcp:127.0.0.{}:{web}-:443",
                *end + 3,
                // Cookies know no ports.
                *end + 1
            ),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=office,romfile=,mac=52:54:00:01:00:0{}", *end + 1),
        ];
        more.extend(link.options(*end, if *end == 0 { "e1000e" } else { "virtio-net-pci" }));
        let log = world.dir.join(self.name).with_extension("serial");
        if log.exists() {
            std::fs::rename(&log, log.with_extension("before.serial"))?;
        }
        let (firmware, bus) = (self.firmware.clone(), if *end == 0 { Bus::Ahci } else { Bus::Nvme });
        let machine = Machine { firmware, bus, disk: self.disk.path.clone(), memory_mib: MEMORY_MIB, more, log };
        self.person = Some(Person::sits_at(machine.start()?));
        Ok(())
    }

    fn person(&mut self) -> Result<&mut Person> {
        self.person.as_mut().with_context(|| format!("{} is off", self.name))
    }

    fn serves(&mut self) -> Result<Duration> {
        let name = self.name;
        self.person()?.vm.serial.expect(SERVING_A, START).with_context(|| name)
    }

    /// The plug is pulled.
    fn cut_power(&mut self) -> Result<()> {
        self.person.take().with_context(|| format!("{} is off", self.name))?.vm.power_off()
    }

    /// Switched off as the handbook says.
    fn power_off(&mut self) -> Result<()> {
        let mut person = self.person.take().with_context(|| format!("{} is off", self.name))?;
        person.answers(HOME, "14")?;
        person.answers(MENU, "2")?;
        person.confirms()?;
        person.vm.wait_off(STOP)
    }
}

/// Everything a guest may ask for.
struct Site<'a> {
    world: &'a World,
    image: &'a Image,
    link: Link,
    boxes: [Station; 2],
    /// Between the host and the source's portal. QEMU takes connections for a machine that does not listen yet, and resets
    /// them later: no real machine does that, and a session of open-iscsi 2.1.8 was seen not to come back from it.
    way: Relay,
    tally: RefCell<Tally>,
    numbers: u64,
}

impl Site<'_> {
    fn switch_on(&mut self, which: usize) -> Result<Duration> {
        self.boxes[which].switch_on(self.world, &self.link)?;
        self.boxes[which].serves()
    }

    /// Waits until both groups of the source are in order and their mirrors have what hosts have written. Twice: a link that
    /// has just come up counts its lag from there.
    fn in_order(&mut self) -> Result<()> {
        let source = self.boxes[0].person()?;
        for _ in 0..2 {
            source.watches(LOOK)?;
            for group in ["data", "count"] {
                source.sees_line(&[group, "source", "ordered", " up ", " 0 s"], ORDER)?;
            }
        }
        Ok(())
    }

    /// What is on a box that was switched off, seen from a guest with a copy of its disk. Gives the digest of all volumes.
    fn look_at(&self, which: usize, least: u64, most: u64) -> Result<()> {
        let station = &self.boxes[which];
        let copy = self.world.dir.join("looked-at.img");
        self.world.copy(&station.disk.path, &copy)?;
        let log = self.world.dir.join(format!("{}-home.log", station.name));
        let settings = format!("LEAST={least}\nMOST={most}\nDIGEST=\n");
        let errand = Errand {
            name: if which == 0 { "source" } else { "mirror" },
            script: "home.sh",
            settings,
            disk: Some(copy.clone()),
            log,
            secs_max: 300,
        };
        let mut tally = self.tally.borrow_mut();
        let before = tally.failed;
        errand.run(self.image, &mut Nobody, &mut tally)?;
        std::fs::remove_file(&copy)?;
        if tally.failed > before { bail!("{} does not hold what it should", station.name) } else { Ok(()) }
    }
}

/// Nothing can be asked.
struct Nobody;

impl Host for Nobody {
    fn obey(&mut self, words: &[String]) -> Result<String> {
        bail!("nobody does {words:?} here")
    }
}

impl Host for Site<'_> {
    fn obey(&mut self, words: &[String]) -> Result<String> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["cable", "cut"] => self.link.cut(true),
            ["cable", "whole"] => self.link.cut(false),
            ["off", which @ ("a" | "b")] => {
                if *which == "a" {
                    self.way.set(Line::Refused);
                }
                self.boxes[usize::from(*which == "b")].cut_power()?;
            }
            ["on", which @ ("a" | "b")] => {
                self.switch_on(usize::from(*which == "b"))?;
                if *which == "a" {
                    self.way.set(Line::Whole);
                }
            }
            ["in-order"] => self.in_order()?,
            ["mirror-alone", least, most] => {
                self.way.set(Line::Refused);
                for station in &mut self.boxes {
                    station.cut_power()?;
                }
                self.switch_on(1)?;
                self.boxes[1].power_off()?;
                self.look_at(1, least.parse()?, most.parse()?)?;
                for station in &mut self.boxes {
                    station.switch_on(self.world, &self.link)?;
                }
                self.link.cut(false);
                for station in &mut self.boxes {
                    station.serves()?;
                }
                self.way.set(Line::Whole);
            }
            ["numbers", count] => self.numbers = count.parse()?,
            other => bail!("nobody knows {other:?} here"),
        }
        Ok(String::new())
    }
}

/// From two flashed disks to a mirrored volume at the consoles; then faults under a load. Gives the time to the mirrored volume.
pub(super) fn pair(world: &World, name: &str) -> Result<Duration> {
    let image = Image::ready(&folder()).context("make the guest's image")?;
    let boxes =
        [Station::new(world, "pair-a", 0, Firmware::Bios)?, Station::new(world, "pair-b", 1, world.uefi("pair-b")?)?];
    let link = Link::start()?;
    let way = Relay::start(([127, 0, 0, 1], boxes[0].portal).into())?;
    let mut site = Site { world, image: &image, link, boxes, way, tally: RefCell::default(), numbers: 0 };
    let begin = Instant::now();
    for station in &mut site.boxes {
        station.switch_on(world, &site.link)?;
    }
    let mut served = Duration::ZERO;
    for station in &mut site.boxes {
        served = served.max(station.serves()?);
    }
    let inputs = at_the_consoles(&mut site)?;
    let mirrored = begin.elapsed();
    world.note(format!(
        "{name}: {inputs} lines typed from two flashed disks to a mirrored volume; both served after {:.1} s, mirrored {:.1} s \
         after power-on",
        served.as_secs_f64(),
        mirrored.as_secs_f64()
    ));
    second_volume_and_host(&mut site)?;
    site.in_order()?;
    let errand = Errand {
        name: "pair",
        script: "appliance.sh",
        settings: format!(
            "REPLACEMENT_TIMEOUT=1800\nNOOP_TIMEOUT=20\nPORT1={}\nFIO_SIZE=24m\nFIO_RATE=400k\n",
            site.way.port()
        ),
        disk: None,
        log: world.dir.join("pair-host.log"),
        secs_max: 1800,
    };
    let mut tally = Tally::default();
    let outcome = errand.run(&image, &mut site, &mut tally);
    outcome.and_then(|()| site.in_order())?;
    for station in &mut site.boxes {
        station.power_off()?;
    }
    let numbers = site.numbers;
    for which in [0, 1] {
        site.look_at(which, numbers, numbers)?;
    }
    let seen = site.tally.into_inner();
    world.note(format!(
        "{name}: the host's {} cases and {} looks at the disks passed; {numbers} numbers written, both disks hold them all",
        tally.passed, seen.passed
    ));
    if tally.failed + seen.failed > 0 || tally.passed == 0 || seen.passed == 0 {
        bail!("{} cases failed", tally.failed + seen.failed);
    }
    Ok(mirrored)
}

/// The same in a browser, to the mirrored volume.
pub(super) fn pair_in_browser(world: &World, _: &str) -> Result<Duration> {
    let boxes = [
        Station::new(world, "browser-a", 0, Firmware::Bios)?,
        Station::new(world, "browser-b", 1, world.uefi("browser-b")?)?,
    ];
    let link = Link::start()?;
    let [mut a, mut b] = boxes;
    let begin = Instant::now();
    a.switch_on(world, &link)?;
    b.switch_on(world, &link)?;
    a.serves()?;
    b.serves()?;
    let mut codes = Vec::new();
    for station in [&mut a, &mut b] {
        let person = station.person()?;
        person.sees("169.254.", START)?;
        person.sees("it is set with the code", START)?;
        let password = person.value("Password")?;
        codes.push(password.rsplit(' ').next().unwrap_or_default().to_owned());
    }
    // As the step `web` builds it, so that nothing is built twice.
    let mut test = cargo(&["test", "--workspace", "--locked", "--features", BROWSER_FEATURES]);
    test.args([
        "--test",
        "browser",
        "--",
        "--ignored",
        "--exact",
        "appliances::two_appliances_are_paired_in_a_browser",
    ]);
    test.env("REPRISE_BOXES", format!("https://127.0.0.1:{} https://127.0.0.2:{}", a.web, b.web));
    test.env("REPRISE_CODES", codes.join(" "));
    run_command(&mut test)?;
    let mirrored = begin.elapsed();
    a.person()?.sees_line(&["data", "source", "ordered"], ORDER)?;
    b.person()?.sees_line(&["data", "mirror"], ORDER)?;
    a.power_off()?;
    b.power_off()?;
    Ok(mirrored)
}

/// The three levels of a reset, chosen at the console, one of them without a daemon; the last one is cut off and goes on. Gives
/// the time of all.
pub(super) fn resets(world: &World, name: &str) -> Result<Duration> {
    let link = Link::start()?;
    let mut station = Station::new(world, "resets", 0, Firmware::Bios)?;
    station.switch_on(world, &link)?;
    station.serves()?;
    let begin = Instant::now();
    let person = station.person()?;
    person.answers(HOME, "13")?;
    person.answers(MENU, "2")?;
    person.answers("Name of the box", "alpha")?;
    person.answers("To go on, type yes", "yes")?;
    person.sees("The box is called alpha.", START)?;
    person.answers(MENU, "0")?;
    person.sees_line(&["Pool", "data"], START)?;
    person.answers(HOME, "3")?;
    person.answers(MENU, "2")?;
    for (question, answer) in [
        ("Name of the volume", "keep"),
        ("Size", "64M"),
        ("Group", ""),
        ("Kind", "thin"),
        ("Blocks that hosts see", ""),
    ] {
        person.answers(question, answer)?;
    }
    person.answers("To go on, type yes", "yes")?;
    person.sees("Volume keep is made.", START)?;
    person.answers(MENU, "0")?;
    // The settings: the name goes, the volume stays.
    reset(&mut station, "1", "reset (settings) is done")?;
    let person = station.person()?;
    person.sees("box-", START)?;
    person.sees_line(&["keep", "source"], START)?;
    // Forget: the volume goes too.
    reset(&mut station, "2", "reset (forget) is done")?;
    station.person()?.sees("none: choose 3 to make a volume", START)?;
    // What the daemon cannot start without is rotten: it ends again and again, and the console works all the same.
    station.power_off()?;
    station.disk.write_state("/reprise/identity.toml", "\u{0}rotten\u{0}")?;
    station.switch_on(world, &link)?;
    reset(&mut station, "2", "reset (forget) is done")?;
    station.person()?.sees("none: choose 3 to make a volume", START)?;
    // Wipe, and the power goes in the middle of it.
    reset(&mut station, "3", WIPE_BEGINS)?;
    std::thread::sleep(Duration::from_secs(3));
    station.cut_power()?;
    station.switch_on(world, &link)?;
    let said = station.person()?.vm.serial.expect_any(&["reset (wipe) is done", SERVING_A], WIPE)?;
    if said.0 != 0 {
        bail!("the wipe was forgotten by the power cut");
    }
    station.serves()?;
    station.person()?.sees("none: choose 3 to make a volume", START)?;
    station.power_off()?;
    world.note(format!(
        "{name}: all three levels, one without a daemon, the last one cut off and gone on, {:.0} s",
        begin.elapsed().as_secs_f64()
    ));
    Ok(begin.elapsed())
}

/// Chooses a reset, and waits until the next start says so; then, unless it is cut off, until the box serves.
fn reset(station: &mut Station, level: &str, said: &str) -> Result<()> {
    let person = station.person()?;
    person.answers(HOME, "15")?;
    person.answers(MENU, level)?;
    person.confirms()?;
    person.vm.serial.expect(said, WIPE)?;
    if said == WIPE_BEGINS {
        return Ok(());
    }
    station.serves()?;
    Ok(())
}

/// Pairs the boxes and makes a mirrored volume. Gives the number of lines that were typed.
fn at_the_consoles(site: &mut Site<'_>) -> Result<u32> {
    let [a, b] = &mut site.boxes;
    let (a, b) = (a.person()?, b.person()?);
    // The address of the cable comes by itself, since nobody there gives one.
    a.sees("169.254.", START)?;
    b.sees("169.254.", START)?;
    b.answers(HOME, "1")?;
    b.sees("Waiting for the other box", START)?;
    let code = b.value("Code")?;
    let addresses = b.values("Address");
    let address = addresses.iter().find(|a| a.starts_with("169.254."));
    let address = address.with_context(|| format!("no link-local address among {addresses:?}"))?;
    a.answers(HOME, "2")?;
    a.answers("Address of the other box", address)?;
    a.answers("Code shown by the other box", &code)?;
    a.sees("Paired with", START)?;
    b.sees("Paired with", START)?;
    a.answers("Enter: next part", "")?;
    mirrored_volume(a, "data", "320M")?;
    let inputs = a.inputs + b.inputs;
    a.answers(MENU, "0")?;
    a.sees_line(&["data", "source", "ordered"], ORDER)?;
    b.answers("Enter: next part", "")?;
    Ok(inputs)
}

/// From the status page to the page of volumes, where the new one is.
fn mirrored_volume(person: &mut Person, name: &str, size: &str) -> Result<()> {
    let answers =
        [(HOME, "3"), (MENU, "1"), ("Name of the volume", name), ("Size", size), ("To go on, type yes", "yes")];
    for (question, answer) in answers {
        person.answers(question, answer)?;
    }
    person.sees(&format!("Volume {name} is being made, then mirrored to"), START)
}

fn second_volume_and_host(site: &mut Site<'_>) -> Result<()> {
    let a = site.boxes[0].person()?;
    mirrored_volume(a, "count", "16M")?;
    a.answers(MENU, "0")?;
    a.answers(HOME, "14")?;
    a.sees("Memory", START)?;
    let memory = a.value("Memory")?;
    site.world.note(format!("memory of the source with two mirrored volumes and no host: {memory}"));
    let a = site.boxes[0].person()?;
    a.answers(MENU, "0")?;
    a.answers(HOME, "6")?;
    a.answers(MENU, "1")?;
    a.answers("Name of the host", INITIATOR)?;
    a.answers("Groups it may use", "")?;
    a.answers("Addresses it may come from", "")?;
    a.answers("CHAP name", "none")?;
    a.answers("To go on, type yes", "yes")?;
    a.sees("is listed and may log in", START)?;
    a.answers(MENU, "0")
}
