/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest without an operating system: iPXE has fetched it and one module (multiboot 1). It prints
 * "SUM " and the module's length and checksum (two hexadecimal words: of the bytes b, the sum s of
 * s = rotl(s, 1) + b) on the first serial port, and halts.
 *
 *   as --32 -o sum.o netboot_sum.S && ld -m elf_i386 -Ttext 0x200000 -o sum.elf sum.o
 */
	.set MAGIC, 0x1badb002
	.set FLAGS, 1 /* modules on page boundaries */
	.set PORT, 0x3f8

	.text
	.globl _start
	.align 4
	.long MAGIC, FLAGS, -(MAGIC + FLAGS)

_start:
	cli
	movl $stack_end, %esp
	movl 24(%ebx), %eax /* mods_addr */
	movl (%eax), %esi   /* mod_start */
	movl 4(%eax), %ecx  /* mod_end */
	subl %esi, %ecx
	movl %ecx, %ebp
	xorl %ebx, %ebx
	xorl %eax, %eax
	cld
1:	jecxz 2f
	lodsb
	roll $1, %ebx
	addl %eax, %ebx
	decl %ecx
	jmp 1b
2:	movl $text, %esi
3:	lodsb
	testb %al, %al
	jz 4f
	call put
	jmp 3b
4:	movl %ebp, %edi
	call hex
	movb $' ', %al
	call put
	movl %ebx, %edi
	call hex
	movb $'\n', %al
	call put
5:	hlt
	jmp 5b

hex:	/* %edi, eight digits */
	movl $8, %ecx
6:	roll $4, %edi
	movl %edi, %eax
	andl $15, %eax
	movb digits(%eax), %al
	call put
	loop 6b
	ret

put:	/* %al */
	pushl %edx
	pushl %eax
	movw $(PORT + 5), %dx
7:	inb %dx, %al
	testb $0x20, %al
	jz 7b
	popl %eax
	movw $PORT, %dx
	outb %al, %dx
	popl %edx
	ret

text:	.asciz "\nSUM "
digits:	.ascii "0123456789abcdef"
	.balign 16
	.skip 4096
stack_end:
	.section .note.GNU-stack,"",@progbits
