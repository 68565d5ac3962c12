/** Block devices and file systems: files written, the caches dropped, and the files read back by their digests. */
import type { Boot } from './check.ts';

/** What `fill` writes and `again` reads: `seq 1 20000 | md5sum` and `seq 1 50000 | md5sum`. */
const FILES = ['e071f707df7bbeee2a6a1eb48011ddd0  numbers', 'c1d4ba52c72ac7bcc71ff2d6c083e684  more'];
const TWICE = [...FILES, ...FILES];

/** `rams`: three RAM disks of 8 MiB, /dev/ram0 to 2. */
const PREPARE = `
mkdir -p /m
format() { mke2fs -q -t ext4 -J size=1 $1; }
read_back() { (cd /m/d && md5sum numbers more); }
fill() { mkdir /m/d; seq 1 20000 > /m/d/numbers; seq 1 50000 > /m/d/more; read_back; }
fill_and_read() { mount "$@" /m && fill; umount /m; echo 3 > /proc/sys/vm/drop_caches; mount "$@" /m && read_back; umount /m; }
image() { dd if=/dev/zero of=/tmp/image bs=1M count=$1 2>/dev/null; losetup /dev/loop0 /tmp/image; }
rams() { [ -d /sys/module/brd ] && rmmod brd; insmod /lib/modules/brd.ko rd_nr=3 rd_size=8192; }
`;

export const STORAGE: Boot = {
  title: 'block devices and file systems',
  cpus: 1,
  memory: '384M',
  programs: ['mke2fs', 'mksquashfs', 'dmsetup', 'mdadm'],
  helpers: ['crc32c_generic', 'nls_cp437', 'nls_ascii', 'ecb', 'xts', 'lz4'],
  prepare: PREPARE,
  always: true,
  chains: [
    ['ext4', 'jbd2'],
    ['vfat', 'fat'],
    ['raid456', 'md_mod'],
    ['raid456', 'async_memcpy'],
    ['async_xor', 'xor'],
    ['dm_crypt', 'dm_mod'],
    ['zram', 'zsmalloc'],
  ],
  checks: [
    {
      name: 'ext4 on brd',
      kind: 'file system',
      modules: ['crc32c_generic', 'brd', 'ext4', 'jbd2', 'mbcache'],
      script: 'rams; format /dev/ram0; fill_and_read -t ext4 /dev/ram0',
      proof: TWICE,
    },
    {
      name: 'vfat on loop',
      kind: 'file system',
      modules: ['loop', 'fat', 'vfat', 'nls_cp437', 'nls_ascii'],
      script: 'image 8; mkdosfs /dev/loop0 2>/dev/null; fill_and_read -t vfat -o iocharset=ascii /dev/loop0; losetup -d /dev/loop0',
      proof: TWICE,
    },
    {
      name: 'squashfs',
      kind: 'file system',
      modules: ['squashfs'],
      script: `
mkdir -p /tmp/s/d; seq 1 20000 > /tmp/s/d/numbers; seq 1 50000 > /tmp/s/d/more; mksquashfs /tmp/s /tmp/s.img -quiet -no-progress -processors 1
losetup /dev/loop0 /tmp/s.img; mount -t squashfs /dev/loop0 /m && read_back; umount /m; losetup -d /dev/loop0`,
      proof: FILES,
    },
    {
      name: 'overlay',
      kind: 'file system',
      modules: ['overlay'],
      script: `
mkdir /tmp/low /tmp/up /tmp/work; echo lower > /tmp/low/a; mount -t overlay -o lowerdir=/tmp/low,upperdir=/tmp/up,workdir=/tmp/work o /m
echo more >> /m/a; cat /m/a /tmp/low/a; umount /m`,
      proof: ['lower', 'more', 'lower'],
    },
    {
      name: 'zram',
      kind: 'block',
      modules: ['lz4', 'zsmalloc', 'zram'],
      script: `
echo lz4 > /sys/block/zram0/comp_algorithm; echo 16M > /sys/block/zram0/disksize; mke2fs -q -t ext4 /dev/zram0
fill_and_read -t ext4 /dev/zram0; echo 1 > /sys/block/zram0/reset`,
      proof: TWICE,
    },
    {
      name: 'null_blk',
      kind: 'block',
      modules: ['null_blk'],
      script:
        'dd if=/dev/nullb0 of=/dev/null bs=64k count=64 iflag=direct 2>&1 | grep in; dd if=/dev/zero of=/dev/nullb0 bs=64k count=16 oflag=direct 2>&1 | grep out',
      proof: ['64+0 records in', '16+0 records out'],
    },
    {
      name: 'dm-crypt',
      kind: 'block',
      modules: ['dm-mod', 'dm-crypt', 'ecb', 'xts'],
      script: `
rams; dmsetup create c --table "0 16384 crypt aes-xts-plain64 $(printf '%064d' 7)$(printf '%064d' 8) 0 /dev/ram1 0"; dmsetup mknodes
format /dev/mapper/c; fill_and_read -t ext4 /dev/mapper/c; grep -c 19999 /dev/ram1; grep -c 19999 /dev/mapper/c > /tmp/n; test $(cat /tmp/n) -ge 1 && echo readable; dmsetup remove c`,
      proof: [...TWICE, '0', 'readable'],
    },
    {
      name: 'raid5',
      kind: 'block',
      modules: ['md-mod', 'raid456', 'async_memcpy', 'async_xor', 'async_pq', 'async_tx', 'xor', 'raid6_pq'],
      script: `
rams; mdadm --create /dev/md0 --run --force --metadata=1.0 --assume-clean --level=5 --raid-devices=3 /dev/ram0 /dev/ram1 /dev/ram2 2>/dev/null
format /dev/md0; mount -t ext4 /dev/md0 /m && fill; umount /m; mdadm -q /dev/md0 -f /dev/ram1; echo 3 > /proc/sys/vm/drop_caches
mount -t ext4 /dev/md0 /m && read_back; grep -o '3/2' /proc/mdstat; umount /m; mdadm -q --stop /dev/md0`,
      proof: [...TWICE, '3/2'],
    },
  ],
};

export const MORE_STORAGE: Boot = {
  title: 'more block devices and file systems',
  cpus: 2,
  memory: '384M',
  programs: ['mke2fs', 'mdadm', 'fuse2fs'],
  helpers: ['crc32c_generic', 'ext4', 'brd', 'loop'],
  prepare: PREPARE,
  endingThreads: 2, // jffs2's garbage collector, at each unmounting
  always: false,
  chains: [
    ['raid1', 'md_mod'],
    ['sd_mod', 'scsi_mod'],
    ['scsi_debug', 'scsi_mod'],
    ['mtdblock', 'mtd'],
  ],
  checks: [
    {
      name: 'raid1',
      kind: 'block',
      modules: ['crc32c_generic', 'brd', 'ext4', 'raid1'],
      script: `
rams; mdadm --create /dev/md0 --run --force --metadata=1.0 --assume-clean --level=1 --raid-devices=2 /dev/ram0 /dev/ram1 2>/dev/null
format /dev/md0; mount -t ext4 /dev/md0 /m && fill; umount /m; mdadm -q /dev/md0 -f /dev/ram0; mount -t ext4 /dev/md0 /m && read_back
umount /m; mdadm -q --stop /dev/md0`,
      proof: TWICE,
    },
    {
      name: 'raid0',
      kind: 'block',
      modules: ['raid0'],
      script: `
rams; mdadm --create /dev/md0 --run --force --metadata=1.0 --level=0 --raid-devices=2 /dev/ram0 /dev/ram1 2>/dev/null
format /dev/md0; fill_and_read -t ext4 /dev/md0; mdadm -q --stop /dev/md0`,
      proof: TWICE,
    },
    {
      name: 'scsi_debug',
      kind: 'block',
      modules: ['scsi_mod', 'sd_mod', 'scsi_debug'],
      script: 'until_true test -b /dev/sda; format /dev/sda; fill_and_read -t ext4 /dev/sda',
      proof: TWICE,
    },
    {
      name: 'fuse',
      kind: 'file system',
      modules: ['fuse'],
      script: `
rams; mke2fs -q -t ext2 /dev/ram1; fuse2fs /dev/ram1 /m -o fakeroot >/dev/null 2>&1; fill; umount /m; sleep 1
fuse2fs /dev/ram1 /m -o fakeroot >/dev/null 2>&1; read_back; umount /m; until_true sh -c '! pidof fuse2fs' >/dev/null`,
      proof: TWICE,
    },
    {
      name: 'jffs2 on mtdram',
      kind: 'file system',
      modules: ['mtd', 'mtdram', 'mtdblock', 'jffs2'],
      script: `
dd if=/dev/zero bs=1M count=4 2>/dev/null | tr '\\000' '\\377' > /dev/mtdblock0; mount -t jffs2 /dev/mtdblock0 /m && fill; umount /m
mount -t jffs2 /dev/mtdblock0 /m && read_back; umount /m`,
      proof: TWICE,
    },
  ],
};
